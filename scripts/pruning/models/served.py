"""Which models vLLM computes as they are. What was checked against which version: docs/reference/families.md."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.models.families import read_config

MIXTURES: dict[str, dict[str, Any]] = {
    "olmoe": {"norm_topk_prob": False, "clip_qkv": None},
    "gpt_oss": {"swiglu_limit": 7.0},
    "deepseek_v2": {"norm_topk_prob": False},
    "deepseek_v3": {"topk_method": "noaux_tc", "scoring_func": "sigmoid"},
}
"""What vLLM's own classes take for granted of config.json, or read from it where transformers does not."""


def check_router(config: Mapping[str, Any]) -> None:
    """Raises InputError for a mixture whose config.json asks for what vLLM's class of it does not compute."""
    for key, value in MIXTURES.get(config["model_type"], {}).items():
        if config.get(key) != value:
            said = f"{key}: {config.get(key)}: vLLM's class for {config['model_type']} computes with {value}"
            raise InputError(f"backend: vllm: {said}: set the model's `backend: hf`")


def check(directory: Path, own_code: bool, gpus: int = 1) -> None:
    """Raises InputError for a model that vLLM would compute otherwise, or cannot split over these GPUs.

    own_code: whether the code beside the weights is run, in vLLM's Transformers backend."""
    from pruning.models import structures  # torch is slow
    from pruning.models.checkpoint import Checkpoint

    base, config = Checkpoint(directory), read_config(directory)
    widths = base.channels(base.main.name)
    if base.family.mixture:  # an expert's neurons, not its number, are split
        widths = [width // experts for width, experts in zip(widths, base.widths, strict=True)]
    if 0 in widths:
        raise InputError(
            "backend: vllm: layers without an FFN were never tried in it: use a method without `drop_layers`, "
            "`export: pad`, or the model's `backend: hf`"
        )
    if odd := sorted({width for width in widths if width % gpus}):
        raise InputError(
            f"backend: vllm splits every layer over the job's {gpus} GPUs, and {odd[0]} neurons are no multiple of "
            f"{gpus}: set the method's `round_to` to one, the model's `gpus` to 1, or its `backend: hf`"
        )
    check_router(config)
    if base.family.hybrid:
        raise InputError(
            "backend: vllm: models with layers without attention were never tried in it: set the model's `backend: hf`"
        )
    if structures.others(config):
        raise InputError(
            "backend: vllm keeps keys and values of equally many groups in every layer: use an `allocate` other than "
            "`joint` and `sensitivity_joint`, or the model's `backend: hf`"
        )
    if own_code and config.get("logits_scaling", 1) != 1:
        raise InputError(
            "backend: vllm's Transformers backend, which other widths in every layer need, leaves out this model's "
            "`logits_scaling`: use `allocate: uniform` or `export: pad`, or the model's `backend: hf`"
        )
