"""Depth as the limit of width: an FFN without neurons and attention without groups, against the dense model in which all
of them are silent.
"""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny
from pruning.methods import compact
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import FAMILIES
from pruning.models.loading import load
from pruning.models.structures import ffn, kv_groups

LAYERS, N = 3, 48
TEXT = [3, 77, 250, 14, 9, 120, 33, 8, 201, 5, 66, 17]
IDS = torch.tensor([TEXT, [0] * 5 + TEXT[:7]])  # the second is padded on the left
REAL = torch.tensor([[1] * 12, [0] * 5 + [1] * 7])
NONE, SOME, ALL = np.zeros(N, dtype=bool), np.arange(N) % 3 > 0, np.ones(N, dtype=bool)
NO_GROUP, ONE, BOTH = np.array([False, False]), np.array([False, True]), np.array([True, True])
CASES = {
    "the first layer's": ([NONE, SOME, ALL], [NO_GROUP, BOTH, ONE]),
    "others'": ([SOME, NONE, NONE], [ONE, NO_GROUP, BOTH]),
}
WITHOUT_GROUPS = ("olmo2", "phi3")


def masked(model, neurons, groups):
    """Hooks that silence what leaves: the neurons' activations, and what the groups' heads hand on."""
    cut = list(zip(ffn.sites(model), neurons, strict=True))
    for site, keep in zip(kv_groups.sites(model), groups, strict=True) if groups else ():
        cut.append((site, np.repeat(keep, site.in_features // len(keep))))
    for site, keep in cut:
        site.register_forward_pre_hook(lambda _, args, keep=torch.tensor(keep): (args[0] * keep,))
    return model


@torch.inference_mode()
def logits(model, ids=IDS, real=REAL):
    """Of the tokens that are there."""
    return model(ids, attention_mask=real).logits[real.bool()]


def continued(model, ids=IDS, real=REAL, **options):
    """Greedily, with a cache."""
    plain = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, attention_mask=real, **plain, **options)[:, ids.shape[1] :].tolist()


def biased(family):
    """A tiny model with the biases on attention's and the FFN's output that its family can have."""
    model = tiny.of_family(family, LAYERS)
    keys = [key for key in ("attention_bias", "mlp_bias") if hasattr(model.config, key)]
    return tiny.of_family(family, LAYERS, **dict.fromkeys(keys, True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_cut_is_masked_on_disk_in_memory_and_by_the_code_that_is_written(tmp_path, family, case):
    neurons, groups = CASES[case]
    groups = None if family in WITHOUT_GROUPS else groups
    folder, output = tiny.save(biased(family), tmp_path / "base"), tmp_path / "cut"
    base, dense = Checkpoint(folder), masked(load(folder, "float32", "cpu")[0], neurons, groups)
    output.mkdir()
    compact.write_compact(base, output, neurons, groups=groups)
    written, in_memory = load(output, "float32", "cpu")[0], load(folder, "float32", "cpu")[0]
    compact.cut(in_memory, base, neurons, groups=groups)
    widths = [int(keep.sum()) for keep in neurons]
    assert compact.parameters(base, widths, groups=groups) == Checkpoint(output).parameters
    assert Checkpoint(output).parameters == sum(p.numel() for p in in_memory.parameters())
    shutil.rmtree(folder)
    by_code = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True)
    by_code.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    expected, texts = logits(dense), continued(dense)
    for attention in dict.fromkeys((dense.config._attn_implementation, "eager")):
        for model in (written, in_memory, by_code, again):
            model.set_attn_implementation(attention)
            torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
            assert continued(model) == texts
