"""Structured optimal brain surgeon: neurons leave one after the other, each the one whose loss, after the rest has been
refitted for it, is least (Hassibi & Stork 1993; for structures of language models: Kurtic et al. 2023, ZipLM,
arXiv 2302.04089; Ling et al. 2024, SlimGPT, arXiv 2412.18110; van der Ouderaa et al. 2024, LLM Surgeon, 2312.17244).
"""

import numpy as np
import torch
from torch import Tensor

from pruning.methods.scores import TINY

ROUNDS = 512
"""Neurons leave in about so many rounds, those of a round together: one by one up to this width."""


def least_losses(
    second: Tensor, gradients: Tensor | None, down: Tensor, device: torch.device, damping: float = 1e-3
) -> np.ndarray:
    """The loss when a neuron leaves, never less than that of those before it: float64 [n].

    Matrices in float64: mean of a aᵀ [n, n], mean of g gᵀ [d, d] (None: the identity), W [d, n]."""
    if gradients is not None:
        down = root(gradients.to(device)) @ down.to(device)
    order, losses = removals(second.to(device), down.to(device), damping, max(1, len(second) // ROUNDS))
    scores = np.empty(len(order))
    scores[order] = np.maximum.accumulate(losses) * (1 + 1e-12 * np.arange(len(order)))  # equal ones in their order
    return scores


def root(matrix: Tensor) -> Tensor:
    """R with Rᵀ R = the positive semidefinite matrix [d, d]."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.clamp_min(0).sqrt()[:, None] * vectors.T


def removals(second: Tensor, down: Tensor, damping: float, at_once: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(neurons in the order in which they leave, the loss that each adds), both [n].

    second: mean of a aᵀ [n, n]; down: W [d, n], columns in the metric of the loss. Without neuron j, and the others
    refitted, the loss ½ E‖W a - W' a‖² grows by ½ ‖w_j‖² / C_jj, with C = (second + damping · mean diagonal · I)⁻¹;
    then W -= w_j C_j,: / C_jj and C -= C_:,j C_j,: / C_jj, of `at_once` neurons together, in place: rows and columns of
    those that have left stay until they are an eighth of all. Memory: four [n, n] and two [d, n] of float64."""
    number = len(second)
    ridge = damping * second.diagonal().mean() + TINY
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(second + ridge * torch.eye(number, device=second.device)))
    down, left, order, losses = down.clone(), torch.arange(number, device=second.device), [], []
    here = torch.ones(number, dtype=torch.bool, device=second.device)
    while len(order) < number:
        loss = torch.where(here, 0.5 * down.square().sum(0) / inverse.diagonal(), torch.inf)
        out = loss.argsort(stable=True)[: min(at_once, number - len(order))]
        order += left[out].tolist()
        losses += loss[out].tolist()
        change = torch.linalg.solve(inverse[out][:, out], inverse[out])  # [out, n]
        down.addmm_(down[:, out], change, alpha=-1)
        inverse.addmm_(inverse[:, out], change, alpha=-1)
        here[out] = False
        if 8 * int(here.sum()) < 7 * len(here):
            down, inverse, left = down[:, here], inverse[here][:, here], left[here]
            here = here[here]
    return np.array(order), np.array(losses)
