"""A variant cut in memory is the compact model that is written and loaded."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

import tiny
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import compact, variants
from pruning.models import loading
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import FAMILIES
from pruning.models.structures import ffn

WIDTHS = {"uniform": (20, 20), "uneven": (7, 31)}


def mask(path, widths) -> None:
    rng = np.random.default_rng(0)
    keep = [np.isin(np.arange(48), rng.permutation(48)[:width]) for width in widths]
    rows = [{"layer": layer, "unit": unit, "keep": keep[layer][unit]} for layer, unit in product(range(2), range(48))]
    artifacts.write_parquet(path, pd.DataFrame(rows), "mask", {})


def statistics(path) -> None:
    rng = np.random.default_rng(1)
    rows = [
        {"layer": layer, "unit": unit, "act_sum": rng.normal(), "n_tokens": 10}
        for layer, unit in product(range(2), range(48))
    ]
    artifacts.write_parquet(path, pd.DataFrame(rows), "statistics", {})


def parts(folder, model, widths, compensate="none") -> variants.Parts:
    base = tiny.save(model, folder / "base")
    mask(folder / "mask.parquet", widths)
    statistics(folder / "statistics.parquet")
    evidence = folder / "statistics.parquet" if compensate == "bias" else None
    original = {"widths": [48, 48], "parameters": Checkpoint(base).parameters}
    manifest = {"files": artifacts.directory_hashes(base), "original": original, **original}
    artifacts.write_json(base / "manifest.json", manifest, "base", {})
    return variants.Parts(base, base / "manifest.json", folder / "mask.parquet", compensate, evidence)


def written(own: variants.Parts, folder):
    base = Checkpoint(own.model)
    keeps = compact.keeps_of(own.mask, base)
    folder.mkdir()
    compact.write_compact(base, folder, keeps, compact.compensation(own.compensate, own.evidence, base, keeps))
    return folder


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(torch.tensor([[3, 77, 250, 14, 9, 120, 33, 8, 201, 5, 66, 17]])).logits


def same(own: variants.Parts, folder, dtype="float32") -> None:
    directory = written(own, folder / "compact")
    expected, (found, _) = loading.load(directory, dtype, "cpu")[0], variants.load(own, dtype, "cpu")
    weights = dict(expected.named_parameters())
    for name, parameter in found.named_parameters():
        zeros = weights.pop(name) if name in weights else None
        assert zeros is not None and torch.equal(parameter, zeros), name
    assert all(not tensor.any() for tensor in weights.values()), list(weights)  # gate's and up's, with `mlp_bias`
    assert torch.equal(logits(found), logits(expected))
    assert [site.in_features for site in ffn.sites(found)] == Checkpoint(directory).widths
    assert not found.training and not any(parameter.requires_grad for parameter in found.parameters())
    assert variants.pruned(own)["parameters_kept"] == Checkpoint(directory).parameters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
def test_cut_in_memory_is_written_and_loaded(tmp_path, family, widths):
    same(parts(tmp_path, tiny.of_family(family), widths), tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen2", "llama", "phi3", "gemma2"])
def test_so_is_flaps_bias(tmp_path, family, dtype):
    """Llama's class has a slot for it; of a checkpoint stored in bfloat16, both round alike."""
    model = tiny.of_family(family).to(getattr(torch, dtype))
    same(parts(tmp_path, model, WIDTHS["uneven"], "bias"), tmp_path, dtype)


def test_biases_that_were_there_are_cut_and_added_to(tmp_path):
    same(parts(tmp_path, tiny.llama(mlp_bias=True), WIDTHS["uneven"], "bias"), tmp_path)


def test_sparsity_is_of_the_widths_before_any_pruning(tmp_path):
    own = parts(tmp_path, tiny.qwen2(), (20, 20))
    assert variants.pruned(own)["achieved_sparsity"] == 1 - 40 / 96
    dense = variants.Parts(own.model, own.manifest)
    whole = Checkpoint(own.model).parameters
    assert variants.pruned(dense) == {"achieved_sparsity": 0, "parameters": whole, "parameters_kept": whole}


def test_answers_of_one_variant_are_no_others(tmp_path):
    own = parts(tmp_path, tiny.qwen2(), (20, 20))
    biased = parts(tmp_path, tiny.qwen2(), (20, 20), "bias")
    keys = [
        variants.identity(own),
        variants.identity(biased),
        variants.identity(variants.Parts(own.model, own.manifest)),
    ]
    mask(own.mask, (7, 31))
    keys.append(variants.identity(own))
    assert len({str(key) for key in keys}) == 4


def test_a_mask_of_another_model_is_refused(tmp_path):
    own = parts(tmp_path, tiny.qwen2(), (20, 20))
    own.manifest.unlink()
    tiny.save(tiny.qwen2(intermediate_size=40), own.model)
    with pytest.raises(
        InputError, match=r"mask.parquet: not a mask of .*base: layer widths \[48, 48\], not \[40, 40\]"
    ):
        variants.load(own, "float32", "cpu")
