"""A checkpoint that is not the whole model is refused by name: transformers would draw what is missing at random."""

import json
from pathlib import Path

import fetch_model
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from pruning.core.errors import InputError
from pruning.models.loading import load

Q, NORM, DOWN = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight", "model.layers.0.mlp.down_proj.weight"


def renamed(tensors):
    tensors["model.layers.1.attention.q_proj.weight"] = tensors.pop(Q)


# what is done to a whole checkpoint, and what is said of it
DAMAGES = {
    "attention missing": (lambda t: t.pop(Q), [f"lacks {Q}, which would be drawn at random"]),
    "norm missing": (lambda t: t.pop(NORM), [f"lacks {NORM}"]),
    "all attention missing": (
        lambda t: [t.pop(name) for name in list(t) if "self_attn" in name],
        ["lacks model.layers.0.self_attn.k_proj", " and 11 more"],
    ),
    "renamed": (renamed, [f"lacks {Q}", "holds model.layers.1.attention.q_proj.weight, which a model of type 'qwen2'"]),
    "another shape": (lambda t: t.update({NORM: t[NORM][:5].clone()}), [f"holds {NORM} in another shape"]),
    "an extra bias": (
        lambda t: t.update({DOWN.replace("weight", "bias"): torch.zeros(32)}),
        ["holds model.layers.0.mlp.down_proj.bias, which a model of type 'qwen2' has no use for"],
    ),
    "integers": (lambda t: t.update({Q: t[Q].to(torch.int8)}), [f"{Q} is stored as I8: quantised weights"]),
    "another head": (
        lambda t: t.update({"lm_head.weight": 2 * t["model.embed_tokens.weight"]}),
        ["ties lm_head.weight to model.embed_tokens.weight, but they differ"],
    ),
}
# keys of config.json that are changed
CONFIGS = {
    "an unknown activation": ({"hidden_act": "swish9"}, "cannot build this model (KeyError: 'swish9'"),
    "more layers than weights": ({"num_hidden_layers": 3, "layer_types": None}, "lacks model.layers.2."),
    "fewer layers than weights": ({"num_hidden_layers": 1, "layer_types": None}, "holds model.layers.1."),
    "no model type": ({"model_type": None}, "model type None cannot be pruned"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads: 0 is not a whole number from 1 to"),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.save(tiny.qwen2(), tmp_path / "model")


def refused(model: Path, *parts: str) -> None:
    output = model.parent / "results/m/base/manifest.json"
    with pytest.raises(InputError) as error:
        fetch_model.fetch_model({"kind": "local", "path": str(model)}, output)
    assert str(error.value).startswith(str(model)) and "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
    assert not output.parent.exists() and not list(output.parent.parent.iterdir())


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_refused_when_fetched(model: Path, name: str):
    damage, parts = DAMAGES[name]
    tensors = load_file(model / "model.safetensors")
    damage(tensors)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    refused(model, *parts)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_another_model_is_refused_when_fetched(model: Path, name: str):
    changes, part = CONFIGS[name]
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **changes}))
    refused(model, part)


def test_what_was_damaged_later_is_refused_when_loaded(model: Path):
    tensors = load_file(model / "model.safetensors")
    tensors.pop(Q)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="not the whole model: it lacks model.layers.1.self_attn.q_proj.weight"):
        load(model, "float32", "cpu")
