"""The embedded mixture at its beginning: it computes what the dense model does, a pair's experts in turn."""

import pytest
import torch

import tiny
from pruning.core.errors import InputError
from pruning.data import mixture

SETTINGS = {"active": 4, "experts": 8, "shared": 16, "noise": 0.0}


@pytest.fixture(scope="module")
def dense():
    return tiny.qwen2(layers=3, intermediate_size=48)


def test_it_begins_as_the_dense_model(dense, monkeypatch):
    monkeypatch.setattr(mixture, "ROUTER", 1e-6)  # experts are weighted alike
    made, ids = mixture.upcycled(dense, SETTINGS).eval(), torch.arange(40).view(2, 20)
    torch.testing.assert_close(made(ids).logits, dense(ids).logits, rtol=1e-4, atol=1e-4)
    assert made.config.moe_intermediate_size == 8
    other = mixture.upcycled(dense, SETTINGS | {"noise": 0.1}).eval()
    assert 0.01 < (other(ids).logits - dense(ids).logits).abs().max() < 10


def test_one_expert_of_each_pair_is_active(dense):
    made, chosen = mixture.upcycled(dense, SETTINGS).eval(), []
    for layer in made.model.layers:
        layer.mlp.gate.register_forward_hook(lambda _, __, output: chosen.append(output[2]))
    made(torch.arange(40).view(2, 20))
    for found in chosen:
        assert torch.equal((found % 4).sort(1).values, torch.arange(4).expand(40, 4))
    assert {*torch.cat(chosen).flatten().tolist()} == set(range(8))


def test_neurons_that_are_no_whole_shards_are_refused(dense):
    with pytest.raises(InputError, match="48 neurons without 18 of the shared expert are no 4 equal experts"):
        mixture.upcycled(dense, SETTINGS | {"shared": 18})
