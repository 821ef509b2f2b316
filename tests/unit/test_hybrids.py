"""Models with a convolution or linear attention in some layers: their states, and what is not done with them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import tiny
from pruning.calibration import gradients
from pruning.calibration.prepare import as_batches, micro_batches
from pruning.command import efforts
from pruning.core.errors import InputError
from pruning.evaluation import likelihood
from pruning.methods import refit
from pruning.models import complete, rehearsal, settled
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import FAMILIES

HYBRIDS = [name for name, family in FAMILIES.items() if family.hybrid]
hybrids = pytest.mark.parametrize("family", HYBRIDS)


@hybrids
@torch.inference_mode()
def test_likelihoods_are_those_of_whole_texts(family):
    model, contexts = tiny.of_family(family), [[3, 77, 250, 14, 9], [9, 120]]
    options = [[[33, 8, 201], [33, 5, 66, 17]], [[1, 2], [7]]]
    for context, own, found in zip(contexts, options, likelihood.score(model, contexts, options, 0), strict=True):
        for rest, (value, _) in zip(own, found, strict=True):
            losses = model(torch.tensor([context + rest])).logits[0].log_softmax(-1)[len(context) - 1 : -1]
            assert value == pytest.approx(losses.gather(1, torch.tensor(rest)[:, None]).sum().item(), abs=1e-4)


@hybrids
def test_padding_on_the_right_changes_no_statistic(family):
    """Batches of a calibration, beside each sample alone."""
    model, texts = tiny.of_family(family), [[3, 77, 250, 14, 9, 120, 33, 8], [5, 66, 17]]
    sequences = [(own, [True] * len(own)) for own in texts]
    together, alone = (
        gradients.statistics(model, micro_batches(sequences, size, pad=0, token_mask="all"), ("energy", "ce"))[0]
        for size in (2, 1)
    )
    for column in together:
        assert together[column].to_numpy() == pytest.approx(alone[column].to_numpy(), rel=2e-3, abs=1e-5), column


@hybrids
def test_a_layer_is_refitted_by_its_own_output(family):
    """Which removes nothing but what cannot be kept: with half of the neurons a layer's output is nearer with it."""
    model = tiny.of_family(family)
    batches = as_batches(torch.tensor([[(7 * i + 3 * t) % 250 for t in range(40)] for i in range(10)]).split(5))
    for _, record in refit.refit(model, batches, tiny.keeps(24, 24), "sequential"):
        assert record["down"]["held_out_error"] < record["down"]["held_out_error_uncompensated"]
    with pytest.raises(InputError, match=f"{family}' has layers without attention, .* use `compensate: ridge_sequ"):
        next(refit.refit(tiny.of_family(family), batches, tiny.keeps(24, 24), "attention"))


@hybrids
def test_efforts_choose_what_there_is(family):
    shape = tiny.of_family(family).config.to_dict()
    method, notes = efforts.method_for(efforts.read("standard"), shape, 1, equal=False)
    assert method.compensate == "ridge_sequential" and f"{family} has layers without attention" in notes[0]


@hybrids
def test_memory_is_rehearsed(tmp_path, family):
    tiny.save(tiny.of_family(family), tmp_path)
    text = {"micro_batch": 2, "sequence_length": 32, "objectives": ["energy", "ce"], "gradient_checkpointing": False}
    taken = gradients.STAGE.taken(rehearsal.network(tmp_path, "float32"), text)
    assert taken.bytes > 2 * 32 * 4 * (48 * 3 + 32) * 2  # activations of two layers


def test_the_width_of_lfm2_is_said_plainly(tmp_path):
    """Files of the hub name another number, of which transformers makes the width: two thirds, in multiples."""
    config = tiny.of_family("lfm2").config.to_dict()
    for key in ("intermediate_size", "block_auto_adjust_ff_dim", "model_type"):
        config.pop(key)
    own = {"block_ff_dim": 100, "block_multiple_of": 16, "block_ffn_dim_multiplier": 1.0}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["lfm2"](**config | own))
    tiny.save(model, tmp_path)
    raw = json.loads((path := tmp_path / "config.json").read_text())
    raw.pop("intermediate_size"), raw.pop("block_auto_adjust_ff_dim")
    path.write_text(json.dumps(raw | own))
    settled.settle(tmp_path)
    complete.check(tmp_path)
    found = json.loads(path.read_text())
    assert Checkpoint(tmp_path).widths == [80, 80] and found["intermediate_size"] == 80  # 16 * ceil(66 / 16)
    before = path.read_bytes()
    settled.settle(tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("family", "passed_over"),
    [
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
        ("qwen3_5_text", {"mtp.layers.0.mlp.down_proj.weight": torch.ones(32, 48), "mtp.norm.weight": torch.ones(32)}),
    ],
)
def test_what_transformers_passes_over_is_no_part_of_the_model(tmp_path, family, passed_over):
    """The FFN of a layer for multi-token prediction stood for that of layer 0."""
    model = tiny.of_family(family)
    file, whole = tiny.save(model, tmp_path) / "model.safetensors", load_file(tmp_path / "model.safetensors")
    save_file({**whole, **passed_over}, file, {"format": "pt"})
    found = complete.check(tmp_path)
    assert {*found} == {*passed_over}
    complete.take_out(tmp_path, found)
    assert {*load_file(file)} == {*whole} and Checkpoint(tmp_path).parameters == model.num_parameters()
    assert not any("mtp" in Checkpoint(tmp_path).name(0, kind) for kind in ("gate", "up", "down"))
