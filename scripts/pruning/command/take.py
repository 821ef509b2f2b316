"""How to use the model that was taken: commands that work as they stand, for each runtime."""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pruning.config import alternatives
from pruning.config.methods import Method
from pruning.core.errors import InputError
from pruning.data import datasets
from pruning.models import multimodal, served
from pruning.models.families import read_config

PYTHON = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder!r}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto"{own_code})
inputs = tokenizer({prompt!r}, return_tensors="pt"{started})
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))"""
WHOLE = """\
from transformers import AutoModelForImageTextToText

model = AutoModelForImageTextToText.from_pretrained({folder!r}, dtype="auto"{own_code})"""
VLLM_OWN_CODE = ("--trust-remote-code", "--model-impl", "transformers")
"""Layers of different widths run in vLLM's Transformers backend, by the code beside the weights."""
LONGEST = 300  # characters of a prompt that is printed


def check(methods: Mapping[str, Method], folder: Path) -> None:
    """Raises InputError if a GGUF file cannot be made of a model, or not of what one of these methods makes of it.

    folder: the dense model's."""
    alternatives.check_file("", folder)
    for name, own in methods.items():
        alternatives.check_file(f"--gguf: {name}: ", folder, own)


def commands(folder: Path, files: Sequence[Path], prompt: str) -> dict[str, str]:
    """Return runtime -> what to type, with whole paths. folder: of an exported model; files: its GGUF files."""
    from pruning.models import tokenizers  # slow

    config, first = read_config(folder), tokenizers.load(folder).bos_token  # which a chat format writes itself
    whole, own_code = str(folder.resolve()), "auto_map" in config
    trusted = ", trust_remote_code=True" if own_code else ""
    started = ", add_special_tokens=False" if first and prompt.startswith(first) else ""
    said = {"Python": PYTHON.format(folder=whole, own_code=trusted, prompt=prompt, started=started)}
    with suppress(InputError):  # no line for what vLLM would not compute right
        served.check(folder, own_code)
        said["vLLM"] = shlex.join(["vllm", "serve", whole, *(VLLM_OWN_CODE if own_code else ())])
    if (folder / multimodal.FOLDER).is_dir():
        everything = f"{whole}/{multimodal.FOLDER}"
        said["Python, the whole multimodal model"] = WHOLE.format(folder=everything, own_code=trusted)
    for file in map(Path.resolve, files):
        before, _, variant = str(file.with_suffix("")).rpartition("/export/")
        name = "-".join([Path(before).name, *(part for part in variant.split("/") if part != "gguf")])
        modelfile = str(file.with_suffix(".Modelfile"))
        create, start = ["ollama", "create", name, "-f", modelfile], ["ollama", "run", name]
        said[f"llama.cpp, {file.stem}"] = shlex.join(["llama-cli", "-m", str(file)])
        said[f"Ollama, {file.stem}"] = f"{shlex.join(create)} && {shlex.join(start)}"
    return said


def prompt_of(data: Path) -> str:
    """Return the first prompt of a file of own_data's pairs that is short enough to print, or the start of a text."""
    pairs = datasets.read_jsonl(data)
    fitting = (pair["prompt"] for pair in pairs if 0 < len(pair["prompt"]) <= LONGEST)
    return next(fitting, (pairs[0]["prompt"] or pairs[0]["completion"])[:40])
