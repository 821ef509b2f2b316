"""Losses and divergences of tokens, a few at once on a CPU."""

import pytest
import torch

from pruning.models import head

SHAPE = 2, 50, 40_000  # more tokens than are worked on at once, of a large vocabulary


@pytest.fixture(scope="module")
def logits() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).mul(3).bfloat16()


def test_a_loss_is_that_of_float64(logits):
    targets = logits.argmax(-1)
    exact = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), reduction="none")
    found = head._in_cache(head._loss, logits, targets)
    assert found.shape == SHAPE[:2] and found.dtype == torch.float32
    assert (found.flatten() - exact).abs().max() < 2e-5  # summed along another axis it is 1e-4


def test_a_divergence_has_the_bits_of_all_tokens_at_once(logits):
    other = logits.flip(1)
    assert torch.equal(head._in_cache(head._divergence, logits, other), head._divergence(logits, other))


def test_a_losss_gradient_is_that_of_float64(logits):
    targets, given, exact = logits.argmax(-1), logits.clone().requires_grad_(), logits.double().requires_grad_()
    head._in_cache(head._loss, given, targets).sum().backward()
    torch.nn.functional.cross_entropy(exact.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    assert given.grad.dtype == torch.bfloat16
    torch.testing.assert_close(given.grad.double(), exact.grad, rtol=2**-8, atol=1e-9)
