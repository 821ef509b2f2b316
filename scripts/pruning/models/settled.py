"""What a fetched folder says in ways of its own, said as everywhere."""

import json
import shutil
from pathlib import Path

from pruning.core.files import read_object
from pruning.models.checkpoint import Checkpoint, read_config
from pruning.models.sources import NAMED_TEMPLATES


def settle(directory: Path) -> None:
    """Write LFM2's width of FFNs into config.json, where transformers computes it from another number, and chat
    templates with names, as for tools, into tokenizer_config.json: a model's folder has no folders."""
    config = read_config(directory)
    if config.get("model_type") == "lfm2" and config.get("block_auto_adjust_ff_dim", True):
        config.pop("block_ff_dim", None)
        config |= {"intermediate_size": Checkpoint(directory).widths[0], "block_auto_adjust_ff_dim": False}
        (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if named := sorted(directory.glob(NAMED_TEMPLATES)):
        default, settings = directory / "chat_template.jinja", directory / "tokenizer_config.json"
        files = {"default": default} if default.is_file() else {}
        files |= {file.stem: file for file in named}
        templates = [{"name": name, "template": file.read_text(encoding="utf-8")} for name, file in files.items()]
        content = read_object(settings) | {"chat_template": templates}
        settings.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        default.unlink(missing_ok=True)
        shutil.rmtree(named[0].parent)
