"""Language models inside multimodal ones: the text part becomes a model of its own, which is pruned as any other, and
is put back. The rest (vision, projections, what prepares images) is kept beside it and never read as numbers.

On text alone the text part computes what transformers' class of the same language model does: rotary positions in
several axes (Qwen's) are equal where there is no image.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.core.errors import InputError
from pruning.core.files import read_object, reading
from pruning.models.families import DOWN_BIAS, FAMILIES, Family, family_of, read_config

FOLDER = "multimodal"
"""Of a model's directory: what is not the text part, with the whole's config.json and NAMES."""
NAMES = "text_names.json"
"""Tensor of the text part -> its name in the whole."""
KINDS = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "llava", "mistral3"), "language_model"),
    **dict.fromkeys(("idefics3", "smolvlm"), "text_model"),
}
"""Model type of a whole -> the attribute of transformers' class, without its head, that holds the text part."""
STOCK = {"qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}
"""Model type of a text part -> that of the same language model alone, where they differ."""
PARTS = ("vision_config", "audio_config", "text_config")
"""Keys of config.json by which a model is multimodal."""
BEFORE = {"model.": ("model.language_model.", "language_model.model.", "model.text_model.", "model."), "lm_head.": ()}
BEFORE["lm_head."] = ("language_model.lm_head.", "lm_head.")
"""What names of the text part begin with -> in the whole: transformers 5 has the first, older files another."""
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
        places = ", ".join(f"{place}layers" for place in BEFORE["model."])
        raise InputError(f"{directory}: no text part among its weights: looked for {places}")
    (whole / NAMES).write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    for file in directory.glob(PROCESSORS):
        file.rename(whole / file.name)
    _write_index(directory)
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
    for own, places in BEFORE.items():
        for place in places:
            rest = name.removeprefix(place)
            if rest != name and (own == "lm_head." or rest.partition(".")[0] in first):
                return own + rest
    return None


def _write_index(directory: Path) -> None:
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
        if "mrope_section" in rotary:
            kept = {key: own for key, own in rotary.items() if not key.startswith("mrope") and key != "type"}
            fields["rope_parameters"] = {**kept, "rope_type": "default"}
        fields["tie_word_embeddings"] = whole.tie_word_embeddings
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if raw.get(key) is not None:
                fields[key] = raw[key]
        fields["dtype"] = fields.get("dtype") or raw.get("dtype", raw.get("torch_dtype"))
        return AutoConfig.for_model(kind, **fields)


def put_back(text: Path, base: Path, output: Path) -> None:
    """Write the whole model below the new directory `output`: a text part as it is now, and the rest as it was fetched,
    its tensors byte for byte.

    text: directory of the pruned text part. base: the dense one's, with FOLDER in it. Layers of different sizes have
    their code beside the weights, as in the text part alone. Raises InputError if the vocabulary was cut, by whose
    numbers images are marked."""
    from safetensors.torch import load_file, save_file

    from pruning.models import remote_code, structures

    own, raw, names = read_config(text), read_object(base / FOLDER / "config.json"), read_object(base / FOLDER / NAMES)
    if own["vocab_size"] != read_config(base)["vocab_size"]:
        raise InputError(f"{text}: its vocabulary was cut, by whose numbers the rest of the model marks images")
    output.mkdir()
    for file in sorted(text.glob("*.safetensors")):
        tensors = {_whole_name(name, names): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, output / f"text-{file.name}", metadata={"format": "pt"})
    for file in sorted((base / FOLDER).iterdir()):
        if file.name not in (NAMES, "config.json"):
            shutil.copyfile(file, output / (f"rest-{file.name}" if file.suffix == ".safetensors" else file.name))
    _write_index(output)
    for file in sorted(text.iterdir()):
        if file.is_file() and ".safetensors" not in file.name and not (output / file.name).exists():
            shutil.copyfile(file, output / file.name)
    (output / remote_code.FILE).unlink(missing_ok=True)
    made = nested(raw)
    changed = {key for key in ("intermediate_size", DOWN_BIAS, "mlp_bias", *structures.keys()) if key in own}
    made["text_config"] |= {key: own[key] for key in changed}
    if not structures.is_stock(own):
        place = f"model.{KINDS[raw['model_type']]}.layers"
        code = remote_code.source(own, family_of(own, text), remote_code.Whole(made["model_type"], place))
        (output / remote_code.FILE).write_text(code, encoding="utf-8")
        made = remote_code.named(made, multimodal=True)
    (output / "config.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def nested(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a whole's config.json with the text part's keys under `text_config`, where older files have them beside
    the others."""
    if isinstance(raw.get("text_config"), dict):
        return {**raw, "text_config": {**raw["text_config"]}}
    from transformers import AutoConfig

    return AutoConfig.for_model(**raw).to_dict()


def _whole_name(name: str, names: Mapping[str, str]) -> str:
    """Return a tensor's name in the whole; of a bias that the text part had not, beside its weight."""
    if name in names:
        return names[name]
    return names[name.removesuffix("bias") + "weight"].removesuffix("weight") + "bias"
