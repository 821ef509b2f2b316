"""Structured optimal brain surgeon: neurons are removed one by one, each time the one whose loss, after the rest has
been refitted for it, is least (Hassibi & Stork 1993; for structures of language models: Kurtic et al. 2023, ZipLM,
arXiv 2302.04089; Ling et al. 2024, SlimGPT, arXiv 2412.18110; van der Ouderaa et al. 2024, LLM Surgeon, 2312.17244).
Blocks of columns that can only be removed whole, as the channels of a key-value group, are treated alike; a neuron is
a block of one.
"""

import numpy as np
import torch
from torch import Tensor

from pruning.methods.scores import TINY

CHUNKS = 512
"""Neurons are removed in about so many chunks, each one update of the large matrices; below twice this width one by
one."""
CANDIDATES = 3  # A chunk is chosen among so many times as many, the cheapest
LATE = 64
"""So many columns are subtracted from the large matrix at once."""


def least_losses(
    second: Tensor, gradients: Tensor | None, down: Tensor, device: torch.device, damping: float = 1e-3, block: int = 1
) -> np.ndarray:
    """The loss when a neuron, or a block of so many, is removed, never less than that of those before it: float64
    [n / block].

    Matrices in float64: mean of a aᵀ [n, n], mean of g gᵀ [d, d] (None: the identity), W [d, n]."""
    if gradients is not None:
        down = root(gradients.to(device)) @ down.to(device)
    at_once = max(1, len(second) // block // CHUNKS)
    order, losses = removals(second.to(device), down.to(device), damping, at_once, block)
    scores = np.empty(len(order))
    scores[order] = np.maximum.accumulate(losses) * (1 + 1e-12 * np.arange(len(order)))  # equal ones in their order
    return scores


def root(matrix: Tensor) -> Tensor:
    """R with Rᵀ R = the positive semidefinite matrix [d, d]."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0).sqrt()[:, None] * vectors.T


def removals(
    second: Tensor, down: Tensor, damping: float, at_once: int = 1, block: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(blocks in the order of their removal, the loss that each adds), both [n / block].

    second: mean of a aᵀ [n, n]; down: W [d, n], columns in the metric of the loss; a block B is so many neighbouring
    columns. Without it, and the others refitted, the loss ½ E‖W a - W' a‖² grows by ½ tr(W_B C_BB⁻¹ W_Bᵀ), of a single
    neuron j ½ ‖w_j‖² / C_jj, with C = (second + damping · mean diagonal · I)⁻¹; then W -= W_B C_BB⁻¹ C_B,: and
    C -= C_:,B C_BB⁻¹ C_B,:. Memory: four [n, n] and two [d, n] of float64."""
    ridge = damping * second.diagonal().mean() + TINY
    inverse = torch.cholesky_inverse(
        torch.linalg.cholesky(second + ridge * torch.eye(len(second), device=second.device))
    )
    order, losses = cheapest(
        inverse, down.T.clone(memory_format=torch.contiguous_format), len(second) // block, at_once, block
    )
    return np.array(order), np.array(losses)


class Inverse:
    """C [n, n], from which blocks of so many neighbouring rows and columns are taken out.

    A product of few columns takes as long as reading all of C, so what is to be subtracted waits, LATE rows of two
    factors [LATE, n] at most. The blocks on the diagonal are always as they should be."""

    def __init__(self, matrix: Tensor, block: int):
        self.matrix, self.block, self.late = matrix, block, 0
        shape = (len(matrix) // block, block)
        self.own = matrix.unflatten(1, shape).unflatten(0, shape).diagonal(dim1=0, dim2=2).movedim(-1, 0).clone()
        """The blocks on the diagonal, [n / block, block, block]."""
        self.left = self.right = matrix.new_empty(0, len(matrix))

    def rows(self, columns: Tensor) -> Tensor:
        """Return rows of C, or by its symmetry columns, [columns, n]."""
        return self.matrix[columns] - self.left[: self.late, columns].T @ self.right[: self.late]

    def square(self, columns: Tensor) -> Tensor:
        """Return their own part of C, [columns, columns]."""
        waiting = self.left[: self.late, columns].T @ self.right[: self.late, columns]
        return self.matrix[columns[:, None], columns] - waiting

    def take_out(self, columns: Tensor) -> Tensor:
        """C -= C_:,B C_BB⁻¹ C_B,: of some columns B; return C_BB⁻¹ C_B,:, [columns, n]."""
        rows = self.rows(columns)
        change = torch.linalg.solve(rows[:, columns], rows)
        parts = (each.T.unflatten(0, (-1, self.block)) for each in (rows, change))  # [n / block, block, columns]
        self.own -= next(parts) @ next(parts).mT
        if self.late + len(columns) > len(self.left):
            self.settle(max(LATE, len(columns)))
        for factor, new in ((self.left, rows), (self.right, change)):
            factor[self.late : self.late + len(columns)] = new
        self.late += len(columns)
        return change

    def settle(self, room: int) -> None:
        """Subtract what waits, and make room for so many rows."""
        self.matrix.addmm_(self.left[: self.late].T, self.right[: self.late], alpha=-1)
        self.left, self.right = (self.matrix.new_empty(room, len(self.matrix)) for _ in range(2))
        self.late = 0

    def keep(self, blocks: Tensor) -> "Inverse":
        """Return that of some blocks alone, bool [n / block]."""
        self.settle(0)
        stay = blocks.repeat_interleave(self.block)
        return Inverse(self.matrix[stay][:, stay], self.block)


def cheapest(matrix: Tensor, weights: Tensor, number: int, at_once: int, block: int) -> tuple[list[int], list[float]]:
    """The first `number` blocks to remove, and the loss that each adds. matrix: C [n, n] and weights: Wᵀ [n, d], which
    are updated in place, for `at_once` blocks together.

    Those are chosen one after another: a redundant neuron becomes important once its duplicates are removed. Only
    `CANDIDATES` times as many, the cheapest, are compared, on their own rows and columns, on the CPU.
    Rows and columns of removed neurons stay until they are an eighth of all."""
    inverse, left = Inverse(matrix, block), torch.arange(len(matrix) // block, device=matrix.device)
    order, losses, here = [], [], torch.ones(len(left), dtype=torch.bool, device=matrix.device)
    while len(order) < number:
        loss = torch.where(here, block_losses(inverse.own, weights), torch.inf)
        chunk = min(at_once, number - len(order))
        out = loss.argsort(stable=True)[: min(CANDIDATES * chunk, int(here.sum())) if chunk > 1 else 1]
        if chunk > 1:
            columns = columns_of(out, block)
            own = torch.linalg.qr(weights[columns].T, mode="r").R.T  # as long as they are, and as far apart
            chosen, added = cheapest(inverse.square(columns).cpu(), own.contiguous().cpu(), chunk, 1, block)
            out = out[chosen]
        else:
            added = loss[out].tolist()
        order += left[out].tolist()
        losses += added
        columns = columns_of(out, block)
        weights.addmm_(inverse.take_out(columns).T, weights[columns], alpha=-1)
        here[out] = False
        if block > 1 or 8 * int(here.sum()) < 7 * len(here):  # a block that was removed could not be solved for
            weights, inverse, left = weights[here.repeat_interleave(block)], inverse.keep(here), left[here]
            here = here[here]
    return order, losses


def columns_of(blocks: Tensor, block: int) -> Tensor:
    return (blocks[:, None] * block + torch.arange(block, device=blocks.device)).flatten()


def block_losses(own: Tensor, weights: Tensor) -> Tensor:
    """½ tr(W_B C_BB⁻¹ W_Bᵀ) of each block B, [n / block]; own: C_BB [n / block, block, block], weights: Wᵀ [n, d]."""
    if own.shape[-1] == 1:
        return 0.5 * torch.linalg.vector_norm(weights, dim=1).square() / own.flatten()
    rows = weights.unflatten(0, own.shape[:2])  # [n / block, block, d]
    return 0.5 * (rows * torch.linalg.solve(own, rows)).sum((1, 2))
