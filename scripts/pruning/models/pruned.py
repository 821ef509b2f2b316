"""A compact model of this workflow as the base of another round: a file of its own, since it alone loads models."""

import json
import shutil
from pathlib import Path

from pruning.core import artifacts
from pruning.models import loading, remote_code
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import read_config
from pruning.models.sources import from_local


def from_pruned(pruned: Path, adapter: Path | None, output: Path, dtype: str | None = None) -> None:
    """A compact model as it is, or with a LoRA adapter merged into its weights, in `dtype`: that in which the adapter
    was trained and measured, since a narrower one rounds some of the recovery away. None: in that of the weights."""
    artifacts.check_model(pruned)
    from_local(pruned, output)
    if (code := pruned / remote_code.FILE).exists():  # ours, and not run here
        shutil.copyfile(code, output / remote_code.FILE)
    if adapter is None:
        return
    config = read_config(pruned)
    checkpoint = Checkpoint(pruned)
    dtype = dtype or str(checkpoint.tensor(checkpoint.name(0, "down")).dtype).removeprefix("torch.")
    model, _ = loading.load(pruned, dtype, "cpu", adapter)
    for file in output.glob("*.safetensors*"):
        file.unlink()
    model.save_pretrained(output)
    # Not transformers' own, which would leave widths of ours out.
    config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
