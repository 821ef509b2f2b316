"""Gram matrices of what many tokens have at a place, Σ_t x xᵀ: second moments, and the matrix of least squares."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

STRIP = 1024  # Columns that are multiplied at once
ROWS = 128  # Added at once: a CPU's allocator keeps their wide copy (under 32 MB) for the next


class Gram:
    """Σ_t x xᵀ [n, n]. Products within a call of `add` are float32, sums over calls float64 (float32 on a GPU).

    The matrix is symmetric, so only what is in or above the strips on its diagonal is multiplied. Rows whose numbers
    are all bfloat16's, as activations of a model in bfloat16 are, go through a processor's units for short floats: a
    product of two such numbers is exact in float32, and sums are float32 there too, so nothing is lost."""

    def __init__(self, device: torch.device, size: int):
        self.sums = wide_zeros(device, size, size)

    def add(self, x: Tensor) -> None:
        """Add tokens x [tokens, n], float32."""
        short = (x == x.bfloat16()).all(1)
        for which, units in ((short, units_for_short_floats), (~short, nullcontext)):
            if len(rows := x if which.all() else x[which]):
                with units():
                    for strip in strips(len(self.sums)):
                        add(self.sums[: strip.stop, strip], rows[:, : strip.stop].T @ rows[:, strip])

    def whole(self) -> Tensor:
        """Return the sums; nothing can be added after it. Exactly symmetric: products of some processors are not."""
        for strip in strips(len(self.sums)):
            self.sums[strip.stop :, strip] = self.sums[strip, strip.stop :].T
            own = self.sums[strip, strip]
            below = torch.ones_like(own, dtype=torch.bool).tril(-1)
            own.copy_(torch.where(below, own.T, own))
        return self.sums


def strips(size: int) -> list[slice]:
    """Columns that are multiplied at once, each with those before it."""
    return [slice(start, min(start + STRIP, size)) for start in range(0, size, STRIP)]


def multiplied(size: int) -> int:
    """Return how many products of two numbers a token costs."""
    return sum(strip.stop * (strip.stop - strip.start) for strip in strips(size))


def wide_zeros(device: torch.device, *shape: int) -> Tensor:
    """What products of float32 are added to: float64, on a GPU float32."""
    return torch.zeros(shape, dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)


def add(sums: Tensor, product: Tensor) -> None:
    """sums += product, some rows at a time: added to wider sums, torch first makes a wide copy of it on a CPU."""
    for into, rows in zip(sums.split(ROWS), product.split(ROWS), strict=True):
        into += rows


@contextmanager
def units_for_short_floats() -> Iterator[None]:
    """Products of float32 go through a processor's units for bfloat16, or TF32, meanwhile, where there are some."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # a program that sets precisions by backend; torch then knows no common one
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
