"""Artefacts of one file per layer: a directory of {layer}.safetensors, and {directory}.json beside it, a manifest with
their hashes, which stays when Snakemake deletes the directory after use.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.core import artifacts, chain
from pruning.core.errors import InputError

DIGEST = 64  # characters of sha256

if TYPE_CHECKING:
    from torch import Tensor  # slow, and unneeded to read a manifest


def label_of(structure: str) -> str:
    """Return what names in artefacts call a structure: as the first ones were called, or as it is called."""
    return {"ffn": "down", "kv_groups": "attention"}.get(structure, structure)


def kind_of(measured: str, structure: str = "ffn") -> str:
    """Return the kind of what is measured of a structure: that of FFN neurons, experts and their neurons, of which a
    model has the first or the others, has the plain name."""
    if structure in ("ffn", "experts", "expert_neurons"):
        return measured
    return f"{label_of(structure)}_{measured}".removesuffix("_statistics")


def write(
    manifest: Path,
    kind: str,
    settings: dict[str, Any],
    layers: Iterable[dict[str, "Tensor"]],
    content: Mapping[str, Any],
) -> None:
    """layers: each layer's tensors, written as they come, and taken out of their dict. content: of the manifest, looked
    at after the last layer."""
    from safetensors.torch import save_file

    with artifacts.atomic_directory(manifest.with_suffix("")) as temporary:
        for layer, tensors in enumerate(layers):
            save_file(tensors, temporary / f"{layer}.safetensors")
            tensors.clear()  # loops hold on to the dict while the next layer's are made
        files = artifacts.directory_hashes(temporary)
    _describe(manifest, kind, settings, {**content, "files": files})


def _describe(manifest: Path, kind: str, settings: dict[str, Any], content: Mapping[str, Any]) -> None:
    artifacts.write_json(manifest, content, kind, settings)
    chain.remember(manifest.with_suffix(""), manifest, content["files"])


def keep(folder: Path, part: int, tensors: Mapping[str, "Tensor"], record: Mapping[str, Any]) -> None:
    """Write a part, as a layer, of what is not whole yet, for a job that is killed and run again."""
    from safetensors.torch import save_file

    with artifacts.atomic(folder / f"{part}.safetensors") as path:
        said = json.dumps(record)
        about = _digest(tensors, said) + said  # under one key: of several, safetensors changes the order
        save_file(dict(tensors), path, {"about": about})


def kept(folder: Path, part: int) -> tuple[dict[str, "Tensor"], dict[str, Any]] | None:
    """Return what `keep` wrote; None where there is nothing, or it is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / f"{part}.safetensors", "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = (file.metadata() or {}).get("about", "")
    except (OSError, SafetensorError):
        return None
    said = about[DIGEST:]
    return (found, json.loads(said)) if about[:DIGEST] == _digest(found, said) else None


Made = Callable[[], Mapping[str, "Tensor"]]
Kept = Callable[[int, Made], Mapping[str, "Tensor"]]
"""From a part's number and what makes its tensors to these, which an earlier run may have made (`kept_or_made`)."""


def made(_: int, make: Made) -> Mapping[str, "Tensor"]:
    """Make them: nothing is kept."""
    return make()


def kept_or_made(folder: Path, part: int, make: Made) -> Mapping[str, "Tensor"]:
    """Return the tensors of a part that an earlier run has kept, or that are made now and kept."""
    if found := kept(folder, part):
        return found[0]
    tensors = make()
    keep(folder, part, tensors, {})
    return tensors


def write_kept(manifest: Path, kind: str, settings: dict[str, Any], content: dict[str, Any], folder: Path) -> None:
    """Make `folder`, now that all layers are kept in it, the directory of the artefact."""
    directory, files = manifest.with_suffix(""), artifacts.directory_hashes(folder)
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(folder, directory)
    _describe(manifest, kind, settings, {**content, "files": files})


def _digest(tensors: Mapping[str, "Tensor"], said: str) -> str:
    total = sha256(said.encode())
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].numpy())
    return total.hexdigest()


def read(
    manifest: Path, kind: str, widths: Sequence[int] | None = None, arrays: bool = True
) -> tuple[Callable[[int], dict[str, Any]], dict[str, Any]]:
    """(a function from a layer's number to its tensors, as numpy arrays unless `arrays` is false, with the manifest's
    counts of tokens; what the manifest says).

    Raises InputError if the files are not whole, or, where `widths` are given, of a model of other layer widths."""
    directory = manifest.with_suffix("")
    content = artifacts.read_json(manifest, kind)
    if widths is not None and content["widths"] != list(widths):
        what = kind.replace("_", " ")
        raise InputError(f"{directory}: {what} of another model: layer widths {content['widths']}, not {list(widths)}")
    chain.check_files(directory, manifest, content)
    counts = {key: value for key, value in content.items() if key.startswith("tokens")}

    def tensors(layer: int) -> dict[str, Any]:
        from safetensors.torch import load_file

        found = load_file(directory / f"{layer}.safetensors")
        return {name: tensor.numpy() if arrays else tensor for name, tensor in found.items()} | counts

    return tensors, content
