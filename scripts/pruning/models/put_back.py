"""The pruned text part of a multimodal model, back among the rest of it (multimodal.py)."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from pruning.core.errors import InputError
from pruning.core.files import read_object
from pruning.models import remote_code, structures
from pruning.models.families import DOWN_BIAS, family_of, read_config
from pruning.models.multimodal import FOLDER, NAMES, write_index


def put_back(text: Path, base: Path, output: Path) -> None:
    """Write the whole model below the new directory `output`: a text part as it is now, and the rest as it was fetched,
    its tensors byte for byte.

    text: directory of the pruned text part. base: the dense one's, with FOLDER in it. Layers of different sizes have
    their code beside the weights, as in the text part alone. Raises InputError if the vocabulary was pruned, by whose
    numbers images are marked."""
    own, raw, names = read_config(text), read_object(base / FOLDER / "config.json"), read_object(base / FOLDER / NAMES)
    if own["vocab_size"] != read_config(base)["vocab_size"]:
        raise InputError(f"{text}: its vocabulary was pruned, by whose numbers the rest of the model marks images")
    output.mkdir()
    for file in sorted(text.glob("*.safetensors")):
        tensors = {_whole_name(name, names): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, output / f"text-{file.name}", metadata={"format": "pt"})
    for file in sorted((base / FOLDER).iterdir()):
        if file.name not in (NAMES, "config.json"):
            shutil.copyfile(file, output / (f"rest-{file.name}" if file.suffix == ".safetensors" else file.name))
    write_index(output)
    for file in sorted(text.iterdir()):
        if file.is_file() and ".safetensors" not in file.name and not (output / file.name).exists():
            shutil.copyfile(file, output / file.name)
    (output / remote_code.FILE).unlink(missing_ok=True)
    made = nested(raw)
    changed = {key for key in ("intermediate_size", DOWN_BIAS, "mlp_bias", *structures.keys()) if key in own}
    made["text_config"] |= {key: own[key] for key in changed}
    if not structures.is_stock(own):
        code = remote_code.source(own, family_of(own, text), made["model_type"])
        (output / remote_code.FILE).write_text(code, encoding="utf-8")
        made = remote_code.named(made, multimodal=True)
    (output / "config.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")


def nested(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a whole's config.json with the text part's keys under `text_config`, where older files have them beside
    the others."""
    if isinstance(raw.get("text_config"), dict):
        return {**raw, "text_config": {**raw["text_config"]}}
    return AutoConfig.for_model(**raw).to_dict()


def _whole_name(name: str, names: Mapping[str, str]) -> str:
    """Return a tensor's name in the whole; of a bias that the text part had not, beside its weight."""
    if name in names:
        return names[name]
    return names[name.removesuffix("bias") + "weight"].removesuffix("weight") + "bias"
