"""What a GGUF file of a model computes: its values in the place of the weights, in the model that it was made of."""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from pruning.core.errors import InputError
from pruning.models.gguf import layout
from pruning.models.gguf.architectures import DECI, STOCK


@torch.no_grad()
def put(model: PreTrainedModel, file: Path) -> None:
    """Replace every weight of a model by what its GGUF file (models/gguf) holds of it, dequantised and rounded to the
    weight's own dtype.

    In llama.cpp activations are rounded as well, to 8 bits before a product with a quantised matrix: that is left out.
    Raises InputError if the file lacks a weight, has one of another shape, or holds more than the model has.
    Source of the formats: llama.cpp's own package `gguf`."""
    import gguf

    reader, config = gguf.GGUFReader(file), model.config
    kind = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    own = next(each for each in (DECI, *STOCK.values()) if each.name == kind)
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    short_names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    stored = {tensor.name: tensor for tensor in reader.tensors if tensor.name != "rope_freqs.weight"}
    kept = model.state_dict()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    for name, weight in {**dict(model.named_parameters()), **buffers}.items():
        values = np.empty(tuple(weight.shape), dtype=np.float32)
        for part, view in layout.parts(name, config).items():
            tensor = stored.pop(short_names.get_name(part, try_suffixes=(".weight", ".bias")), None)
            into = view(values)
            if tensor is None or int(tensor.n_elements) != into.size:
                raise InputError(f"{file}: holds no {name} of this model's shape; delete it and run again")
            into[...] = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(into.shape)
        if own.interleaved and (heads := layout.heads_of(name, config)):
            values = values[np.argsort(layout.interleaved(len(values), heads))]
        if own.one_added and name.endswith("norm.weight"):
            values = values - 1
        weight.data = torch.from_numpy(np.array(values)).to(weight)
    if stored:
        raise InputError(f"{file}: holds {next(iter(stored))}, which the model does not have; delete it and run again")
