"""Whether a checkpoint holds all of a model and nothing else: what is missing, transformers draws at random."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from pruning.core.errors import InputError
from pruning.core.files import reading
from pruning.models import tokenizers
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import read_config
from pruning.models.multimodal import write_index

INV_FREQ = r"rotary_emb\.inv_freq$"
"""Of older checkpoints: transformers computes it."""
LOADING = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Makes `from_pretrained` return (model, what `refuse` looks at)."""


def check(directory: Path) -> list[str]:
    """Hold a dense checkpoint against the model that its config describes, without reading weights. Return the tensors
    that are none of its own: those that store a tied weight once more, and those that transformers passes over, as the
    layers of multi-token prediction, which would be taken for FFNs of the model.

    Raises InputError as `refuse` and `tokenizers.check` do; if transformers cannot build the model; and if the head is
    another one than the embedding that the config ties it to."""
    from transformers import AutoModelForCausalLM  # slow

    checkpoint = Checkpoint(directory)
    with reading(directory / "config.json", what="transformers cannot build this model"):
        model, found = AutoModelForCausalLM.from_pretrained(directory, device_map="meta", **LOADING)
    refuse(directory, found)
    tokenizers.check(directory, model.get_input_embeddings().num_embeddings)
    copies = [pair for pair in model.all_tied_weights_keys.items() if {*pair} <= {*checkpoint.file_of}]
    for target, source in copies:
        if not checkpoint.tensor(target).equal(checkpoint.tensor(source)):
            raise InputError(
                f"{directory}: config.json ties {target} to {source}, but they differ: set `tie_word_embeddings: "
                "false` there, or give the right weights"
            )
    unread = "|".join([*(model._keys_to_ignore_on_load_unexpected or []), INV_FREQ])
    return [*(target for target, _ in copies), *(name for name in checkpoint.file_of if re.search(unread, name))]


def take_out(directory: Path, copies: Collection[str]) -> None:
    """Write a checkpoint's files again without these tensors, as Qwen3-0.6B's head, which is its embedding: what a
    model has is counted, stored and cut once."""
    for file in {file for name, file in Checkpoint(directory).file_of.items() if name in copies}:
        kept = {name: tensor for name, tensor in load_file(file).items() if name not in copies}
        save_file(kept, file, metadata={"format": "pt"}) if kept else file.unlink()
    if copies:
        write_index(directory)


def refuse(directory: Path, found: Mapping[str, Any]) -> None:
    """Raise InputError, naming tensors, unless loading found each of the model's, of its shape, and no other.

    Args: `found`: what `from_pretrained` says of its loading."""
    config = read_config(directory)
    mistakes = []
    for key, what in (
        ("missing_keys", "lacks {}, which would be drawn at random"),
        ("mismatched_keys", "holds {} in another shape than config.json says"),
        ("unexpected_keys", "holds {}, which a model of type {type!r} has no use for"),
    ):
        names = sorted(name if isinstance(name, str) else name[0] for name in found[key])
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            mistakes.append(what.format(", ".join(names[:3]) + more, type=config.get("model_type")))
    if mistakes:
        raise InputError(f"{directory}: not the whole model: it {'; it '.join(mistakes)}; fetch it again, or fix it")
