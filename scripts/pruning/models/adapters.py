"""LoRA adapters beside the weights of a model: libraries load both, unasked."""

import shlex
from pathlib import Path

from pruning.core.errors import InputError

CONFIG = "adapter_config.json"
MERGED = (
    "from sys import argv; from peft import PeftModel as P; "
    "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
    "P.from_pretrained(M.from_pretrained(argv[1]), argv[2]).merge_and_unload().save_pretrained(argv[3]); "
    "T.from_pretrained(argv[1]).save_pretrained(argv[3])"
)
"""A program for `python -c`, told the folders of the weights, of the adapter, and of both merged."""


def refuse(directory: Path) -> None:
    """Raise InputError, saying what to run, if an adapter lies beside the weights of a model directory."""
    if (directory / CONFIG).is_file():
        apart, merged, quoted = f"{directory}-adapter", f"{directory}-merged", shlex.quote(str(directory))
        command = shlex.join(["python", "-c", MERGED, str(directory), apart, merged])
        raise InputError(
            f"{directory} holds weights and a LoRA adapter ({CONFIG}), which transformers would load with them: move "
            f"the adapter away, and to prune both merged give {merged}: mkdir {shlex.quote(apart)} && "
            f"mv {quoted}/adapter_* {shlex.quote(apart)} && {command}"
        )
