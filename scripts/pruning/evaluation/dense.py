"""The dense model as others are compared with it on a text, or learn from it: its head, and what that gets there.

Both are kept, and the model is let go: no two models are in memory, and the dense one is run once for each text.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from pruning.core import layer_files
from pruning.core.errors import InputError
from pruning.models import head, packing

KIND = "hidden_states"


@torch.inference_mode()
def states(network: nn.Module, windows: Sequence[Tensor], batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Of a dense model, for inference alone from now on: the parameters of its head by name, then, of each batch of
    windows, `hidden` [B, T, d]; on the CPU."""
    yield head_of(network)
    packed = packing.pack(network)
    device = packed.get_input_embeddings().weight.device
    for batch in tqdm([*batches(windows, batch_size)], "batches of windows", mininterval=5):
        yield {"hidden": head.hidden_states(packed, batch.to(device)).cpu()}


def batches(windows: Sequence[Tensor], size: int, padding: int = 0) -> Iterator[Tensor]:
    """Batches [B, T] of token sequences, shorter ones padded after their end."""
    return (pad_sequence([*windows[at : at + size]], True, padding) for at in range(0, len(windows), size))


def head_of(network: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model's head by name, on the CPU."""
    return {name: parameter.detach().cpu() for name, parameter in network.get_output_embeddings().named_parameters()}


def teacher(model: nn.Module, parameters: dict[str, Tensor]) -> head.Teacher:
    """The logits that the dense model makes of what its head gets, from that head's parameters, beside a model of its
    family.

    Raises InputError for a model of another vocabulary."""
    if len(parameters["weight"]) != model.config.get_text_config().vocab_size:
        raise InputError("divergence: the model's vocabulary is not the dense model's: set `per: byte` instead")
    with torch.device("meta"):
        own = nn.Linear(*reversed(parameters["weight"].shape), bias="bias" in parameters)
    own.load_state_dict(parameters, assign=True)
    own = own.requires_grad_(False).to(model.get_output_embeddings().weight.device)
    return partial(head.logits_of, model, own_head=own)


class Dense:
    """What `states` gave, from its manifest. Raises InputError as layer_files.read does."""

    def __init__(self, manifest: Path):
        self.tensors, content = layer_files.read(manifest, KIND, arrays=False)
        self.model = content["model"]
        """sha256 of the dense model's manifest."""

    def is_model(self, identity: list[Any]) -> bool:
        """Whether a variant of this identity (methods/variants.py) is the dense model itself."""
        return identity == [self.model, None]

    def hidden(self, batch: int) -> Tensor:
        """What the head gets of a batch of windows [B, T, d]."""
        return self.tensors(1 + batch)["hidden"]

    def teacher(self, model: nn.Module) -> head.Teacher:
        """Raises InputError as `teacher` does."""
        return teacher(model, self.tensors(0))
