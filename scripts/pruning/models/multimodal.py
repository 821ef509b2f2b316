"""Language models inside multimodal ones: the text part becomes a model of its own, which is pruned as any other, and
is put back (put_back.py). The rest (vision, projections, what prepares images) is kept beside it as it is.

On text alone the text part computes what transformers' class of the same language model does: rotary positions in
several axes (Qwen's) are equal where there is no image.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.files import reading
from pruning.models.families import FAMILIES, Family, family_of, read_config

FOLDER = "multimodal"
"""Of a model's directory: what is not the text part, with the whole's config.json and NAMES."""
NAMES = "text_names.json"
"""Tensor of the text part -> its name in the whole."""
KINDS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "gemma3", "llava"), "language_model"),
    **dict.fromkeys(("mistral3", "lfm2_vl"), "language_model"),
    **dict.fromkeys(("idefics3", "smolvlm"), "text_model"),
}
"""Model type of a whole -> the attribute of transformers' class, without its head, that holds the text part."""
STOCK = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Model type of a text part -> that of the same language model alone, where they differ."""
PARTS = ("vision_config", "audio_config", "text_config")
"""Keys of config.json by which a model is multimodal."""
BEFORE = {
    **dict.fromkeys(("model.language_model.", "language_model.model.", "model.text_model.", "model."), "model."),
    **dict.fromkeys(("language_model.lm_head.", "lm_head."), "lm_head."),
}
"""What names of the whole begin with -> of the text part: transformers 5 has the first of each, older files another."""
PROCESSORS = "*processor*.json"


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is that of a model with a text part beside others."""
    return config.get("model_type") not in FAMILIES and any(isinstance(config.get(key), dict) for key in PARTS)


def text_shape(config: dict[str, Any], source: object) -> dict[str, Any]:
    """Return what a config.json says of the text part, with the model type that this has alone; of a text model all.

    Raises InputError, naming `source`, for another kind of whole, and as families.family_of does of the text part."""
    if not is_multimodal(config):
        return config
    kind, own = config.get("model_type"), config.get("text_config")
    if kind not in KINDS:
        inside = f" (its text part is {own['model_type']!r})" if isinstance(own, dict) and "model_type" in own else ""
        raise InputError(
            f"{source}: multimodal model type {kind!r}{inside} cannot be pruned: not yet tried; supported: "
            f"{', '.join(sorted(KINDS))}, with a text part of a known family (scripts/pruning/models/multimodal.py)"
        )
    inner = (own or config).get("model_type", f"{kind}_text")  # older files have the text part's keys beside the others
    inner = f"{kind}_text" if inner == kind else inner
    found = {**(own or config), "model_type": STOCK.get(inner, inner)}
    family_of(found, f"{source}: text part of {kind!r}")
    return found


def split(directory: Path) -> str | None:
    """Make of a multimodal folder one of its text part, with FOLDER in it; return the whole's model type. Leave others
    as they are.

    Reads the weights a file at a time. Raises InputError as text_shape does, if transformers cannot read the config,
    and for weights without a text part."""
    raw = read_config(directory)
    if not is_multimodal(raw):
        return None
    shape, whole, names = text_shape(raw, directory), directory / FOLDER, {}
    whole.mkdir()
    shutil.copyfile(directory / "config.json", whole / "config.json")
    for file in sorted(directory.glob("*.safetensors")):
        names |= _divided(file, whole, family_of(shape, directory))
    if not names:
        places = ", ".join(f"{place}layers" for place, own in BEFORE.items() if own == "model.")
        raise InputError(f"{directory}: no text part among its weights: looked for {places}")
    (whole / NAMES).write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    for file in directory.glob(PROCESSORS):
        file.rename(whole / file.name)
    write_index(directory)
    _text_config(raw, shape["model_type"], directory).save_pretrained(directory)
    return raw["model_type"]


def _divided(file: Path, whole: Path, family: Family) -> dict[str, str]:
    """Divide a file of weights into the text part's, under the names that it has alone, in its place, and the rest in
    `whole`; return new name -> old."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    first = {family.layers.partition(".")[2], family.norm.partition(".")[2], "embed_tokens"}
    names = {own: name for name in tensors if (own := _own_name(name, first))}
    text = {own: tensors.pop(name) for own, name in names.items()}
    file.unlink()
    for target, part in ((file, text), (whole / file.name, tensors)):
        if part:
            save_file(part, target, metadata={"format": "pt"})
    return names


def _own_name(name: str, first: set[str]) -> str | None:
    """Return what a tensor of the whole is called in the text part alone; None for one of another part. first: what
    follows `model.` there."""
    for place, own in BEFORE.items():
        rest = name.removeprefix(place)
        if rest != name and (own == "lm_head." or rest.partition(".")[0] in first):
            return own + rest
    return None


def write_index(directory: Path) -> None:
    """Write the index of several files of weights in the place of an earlier one; none of a single file."""
    from safetensors import safe_open

    files, index = sorted(directory.glob("*.safetensors")), directory / "model.safetensors.index.json"
    index.unlink(missing_ok=True)
    if len(files) == 1:
        files[0].rename(directory / "model.safetensors")
        return
    where = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            where |= dict.fromkeys(tensors.keys(), file.name)
    size = sum(file.stat().st_size for file in files)
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=2), encoding="utf-8")


def _text_config(raw: dict[str, Any], kind: str, directory: Path) -> Any:
    """Return transformers' config of the text part alone, of model type `kind`."""
    from transformers import AutoConfig

    with reading(directory / "config.json", what="transformers cannot read this multimodal config"):
        whole = AutoConfig.for_model(**{key: own for key, own in raw.items() if key != "auto_map"})
        fields = whole.get_text_config().to_dict()
        for key in ("model_type", "architectures", "transformers_version", "auto_map"):
            fields.pop(key, None)
        rotary = fields.get("rope_parameters") or {}
        if "mrope_section" in rotary and kind in STOCK.values():
            kept = {key: own for key, own in rotary.items() if not key.startswith("mrope") and key != "type"}
            fields["rope_parameters"] = {**kept, "rope_type": "default"}
        fields["tie_word_embeddings"] = whole.tie_word_embeddings
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if raw.get(key) is not None:
                fields[key] = raw[key]
        fields["dtype"] = fields.get("dtype") or raw.get("dtype", raw.get("torch_dtype"))
        return AutoConfig.for_model(kind, **fields)
