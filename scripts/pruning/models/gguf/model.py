"""A model's weights and config as a GGUF file: what a family's weights and config mean to llama.cpp.

Files are written, and tensors named and quantised, by llama.cpp's own Python package `gguf` (MIT, in numpy); K-quants
and other small types by `llama_model_quantize` of llama.cpp itself, where llama-cpp-python is installed.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.core.errors import InputError
from pruning.models import structures
from pruning.models.checkpoint import Checkpoint
from pruning.models.gguf import BLOCK, OWN, layout, tokenizer
from pruning.models.gguf import check as check_type
from pruning.models.gguf.architectures import Architecture, architecture
from pruning.models.gguf.keys import parameters
from pruning.models.gguf_reader import frequency_factors
from pruning.models.structures.experts import NUMBERED

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PretrainedConfig


OTHERS = "models pruned in more than FFN neurons are not converted"


def convert(folder: Path, output: Path, kind: str, about: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Convert a model directory; returns what `contents` says of the file.

    about: `name`, and `repo` and `revision` of the base where it is the hub's. Raises InputError as gguf.check does, if
    llama.cpp has no such model or tokenizer, if a weight is too large for float16, and if llama.cpp fails."""
    check_type(kind)
    if kind in OWN:
        write(folder, output, kind, about)
        return contents(output)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        write(folder, whole := Path(scratch) / "f16.gguf", "f16", {**about, "type": kind})
        quantise(whole, output, kind, threads)
    return contents(output)


def write(folder: Path, output: Path, kind: str, about: Mapping[str, Any]) -> None:
    """Convert a model directory, tensor by tensor, to `f16`, `bf16` or `q8_0`; see `convert`."""
    import gguf
    from transformers import AutoConfig

    checkpoint, config = Checkpoint(folder), AutoConfig.from_pretrained(folder)
    if structures.others(config.to_dict()):
        raise InputError(f"gguf: {folder}: {OTHERS}")
    biased = any(part == "bias" for _, _, part in checkpoint.names_of)
    writer, own = begun(folder, output, config, checkpoint.widths, biased)
    describe(writer, about, kind)
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == own.name)
    short_names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    plan = []
    for name, files in stacked(checkpoint.file_of).items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        shape = [len(files), *checkpoint.shape(files[0])] if name != files[0] else checkpoint.shape(name)
        for part, view in layout.parts(name, config).items():
            short = short_names.get_name(part, try_suffixes=(".weight", ".bias"))
            if short is None:
                raise InputError(f"gguf: {folder}: llama.cpp's {own.name} has no place for {name}")
            own_shape = view(np.broadcast_to(np.float32(0), shape)).shape
            stored = stored_as(own_shape, kind if "ffn_gate_inp" not in short else "f32")
            size = math.prod(gguf.quant_shape_to_byte_shape(own_shape, stored))
            writer.add_tensor_info(short, own_shape, np.dtype(np.float32), size, raw_dtype=stored)
            plan.append((name, files, view, stored))
    factors = frequency_factors(config)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, files, view, stored in plan:
        values = [checkpoint.tensor(file).float().numpy() for file in files]
        values = view(values[0] if name == files[0] else np.stack(values))
        if own.interleaved and (heads := layout.heads_of(name, config)):
            values = values[layout.interleaved(len(values), heads)]
        if own.one_added and name.endswith("norm.weight"):
            values = values + 1
        if stored.name == "F16" and not np.abs(values).max(initial=0) <= np.finfo(np.float16).max:
            raise InputError(f"gguf: {folder}: {name} has values beyond float16's: give bf16 instead of {kind}")
        writer.write_tensor_data(gguf.quants.quantize(np.ascontiguousarray(values), stored))
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()


def stacked(names: Iterable[str]) -> dict[str, list[str]]:
    """Return what llama.cpp has as one tensor -> its parts: a projection's experts, by their number, or one tensor."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(NUMBERED.sub(".experts.", name), []).append(name)
    return {name: sorted(parts, key=lambda part: (len(part), part)) for name, parts in found.items()}


def begun(
    folder: Path, output: Path | None, config: "PretrainedConfig", widths: Sequence[int], biased: bool
) -> tuple["GGUFWriter", Architecture]:
    """Return a file with all that it says of the model, nothing written yet, and what llama.cpp builds of it."""
    import gguf

    own = architecture(config.model_type, widths, biased)
    writer = gguf.GGUFWriter(output, own.name)
    parameters(writer, config, own, widths)
    tokenizer.write(writer, folder, config.vocab_size)
    return writer, own


def check(folder: Path, uneven: bool = False, biased: bool = False, others: bool = False) -> None:
    """Look at a dense model before anything is made of it: whether llama.cpp has what will come of it.

    uneven: layers of different widths are to come; biased: biases of the FFN; others: more than neurons is to be cut.
    Raises InputError as `convert` does for its architecture, its config and its tokenizer."""
    from transformers import AutoConfig

    if others:
        raise InputError(f"gguf: {OTHERS}")
    config, widths = AutoConfig.from_pretrained(folder), Checkpoint(folder).widths
    begun(folder, None, config, [max(widths) - (uneven and not layer) for layer in range(len(widths))], biased)


def stored_as(shape: Sequence[int], kind: str) -> "GGMLQuantizationType":
    """Type of a tensor: vectors are float32, rows that are no whole blocks float16, as llama.cpp's converter has it."""
    from gguf import GGMLQuantizationType

    if len(shape) == 1 or kind == "f32":
        return GGMLQuantizationType.F32
    return GGMLQuantizationType[kind.upper() if shape[-1] % BLOCK[kind] == 0 else "F16"]


def describe(writer: "GGUFWriter", about: Mapping[str, Any], kind: str) -> None:
    """What the file is: only what llama.cpp shows and the hub indexes."""
    import gguf

    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(about["name"])
    writer.add_tags(["pruned", "structural-pruning", "text-generation"])
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if about.get("repo"):
        organization, _, name = about["repo"].rpartition("/")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, name)
        writer.add_base_model_organization(0, organization)
        writer.add_base_model_version(0, about["revision"])
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{about['repo']}")


def quantise(source: Path, output: Path, kind: str, threads: int) -> None:
    """A type that llama.cpp makes of a float16 file. Raises InputError where llama.cpp fails."""
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}"), threads
    if llama_cpp.llama_model_quantize(bytes(source), bytes(output), settings) != 0:
        raise InputError(f"gguf: llama.cpp could not make {kind} of {source}")


def contents(file: Path) -> dict[str, Any]:
    """`architecture`, and `tensors`: how many there are of each type."""
    import gguf

    reader = gguf.GGUFReader(file)
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    name = gguf.Keys.General.ARCHITECTURE
    return {"architecture": reader.fields[name].contents(), "tensors": dict(sorted(types.items()))}
