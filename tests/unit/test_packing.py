"""Packed weights against the plain ones: the same products, bit for bit, and the same answers."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import tiny
from pruning.evaluation.generation import greedy
from pruning.models import loading
from pruning.models.packing import PackedLinear, pack, possible

packs = pytest.mark.skipif(not possible(), reason="this processor has no products in bfloat16")


@packs
@pytest.mark.parametrize("rows", [1, 5, 64, 300])
@pytest.mark.parametrize("shape", [(40, 24), (301, 77), (1536, 512)])
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_linear(rows, shape, bias):
    torch.manual_seed(0)
    module = nn.Linear(shape[1], shape[0], bias=bias, dtype=torch.bfloat16)
    x = torch.randn(2, rows, shape[1]).bfloat16()
    with torch.inference_mode():
        assert torch.equal(PackedLinear(module)(x), linear(x, module.weight, module.bias))


def kinds(model):
    return [type(module).__name__ for module in model.modules() if "Linear" in type(module).__name__]


@packs
@pytest.mark.parametrize("family", [tiny.qwen2, tiny.llama])
def test_a_packed_model_answers_as_before(family):
    model = family().bfloat16()
    packed = pack(copy.deepcopy(model))
    assert packed.num_parameters() == model.num_parameters()
    prompts = [[7, 8, 9], [200, 3, 5, 12], [40, 41]]
    answers = [greedy(m, prompts, 12, lambda _, tokens: False, pad=0) for m in (model, packed)]
    assert answers[0] == answers[1]
    ids = torch.tensor([[7, 8, 9, 40]])
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, packed(ids).logits)


@packs
def test_all_are_packed_but_a_head_that_is_the_embeddings():
    for family, left in ((tiny.llama, []), (tiny.qwen2, ["lm_head"])):
        packed = pack(family().bfloat16())
        assert [name for name, module in packed.named_modules() if type(module) is nn.Linear] == left
        assert kinds(packed).count("PackedLinear") == 2 * 7 + 1 - len(left)


def test_other_dtypes_stay():
    assert "PackedLinear" not in kinds(pack(tiny.qwen2()))


@packs
def test_the_file_of_the_weights_is_let_go(tmp_path):
    """Else its pages, all of them read, stay beside the packed weights."""
    tiny.save(tiny.qwen2().bfloat16(), tmp_path)
    model, _ = loading.load(tmp_path, "bfloat16")
    maps = Path("/proc/self/maps")
    assert str(tmp_path) in maps.read_text()
    pack(model)
    assert str(tmp_path) not in maps.read_text()
