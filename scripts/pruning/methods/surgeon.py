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
"""Neurons are removed in about so many chunks, each one update of the large matrices: one by one up to this width."""
CANDIDATES = 3  # A chunk is chosen among so many times as many, the cheapest


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
    order, losses = cheapest(inverse, down.clone(), len(second) // block, at_once, block)
    return np.array(order), np.array(losses)


def cheapest(
    inverse: Tensor, down: Tensor, number: int, at_once: int = 1, block: int = 1
) -> tuple[list[int], list[float]]:
    """The first `number` blocks to remove, and the loss that each adds; inverse: C [n, n] and down: W [d, n], which are
    updated in place, for `at_once` blocks together.

    Those are chosen one after another: a redundant neuron becomes important once its duplicates are removed. Only
    `CANDIDATES` times as many, the cheapest, are compared, on their own rows and columns, on the CPU.
    Rows and columns of removed neurons stay until they are an eighth of all."""
    left = torch.arange(len(inverse) // block, device=inverse.device)
    order, losses, here = [], [], torch.ones(len(left), dtype=torch.bool, device=inverse.device)
    while len(order) < number:
        loss = torch.where(here, block_losses(inverse, down, block), torch.inf)
        chunk = min(at_once, number - len(order))
        out = loss.argsort(stable=True)[: min(CANDIDATES * chunk, int(here.sum())) if chunk > 1 else 1]
        if chunk > 1:
            columns = columns_of(out, block)
            own = torch.linalg.qr(down[:, columns], mode="r").R  # as long as they are, and as far apart
            chosen, added = cheapest(inverse[columns][:, columns].cpu(), own.cpu(), chunk, 1, block)
            out = out[chosen]
        else:
            added = loss[out].tolist()
        order += left[out].tolist()
        losses += added
        columns = columns_of(out, block)
        change = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])  # [columns, n]
        down.addmm_(down[:, columns], change, alpha=-1)
        inverse.addmm_(inverse[:, columns], change, alpha=-1)
        here[out] = False
        if block > 1 or 8 * int(here.sum()) < 7 * len(here):  # a block that was removed could not be solved for
            stay = here.repeat_interleave(block)
            down, inverse, left = down[:, stay], inverse[stay][:, stay], left[here]
            here = here[here]
    return order, losses


def columns_of(blocks: Tensor, block: int) -> Tensor:
    return (blocks[:, None] * block + torch.arange(block, device=blocks.device)).flatten()


def block_losses(inverse: Tensor, down: Tensor, block: int) -> Tensor:
    """½ tr(W_B C_BB⁻¹ W_Bᵀ) of each block B of so many columns, [n / block]; inverse: C [n, n], down: W [d, n]."""
    if block == 1:
        return 0.5 * down.square().sum(0) / inverse.diagonal()
    number = len(inverse) // block
    own = inverse.unflatten(1, (number, block)).unflatten(0, (number, block)).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    columns = down.T.unflatten(0, (number, block))  # [n / block, block, d]
    return 0.5 * (columns * torch.linalg.solve(own, columns)).sum((1, 2))
