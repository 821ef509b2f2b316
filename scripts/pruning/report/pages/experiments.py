"""The list of all experiments whose first page is in `results`, with the result of each in words. Files: none."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.report import site
from pruning.report.files import Files


def values(files: Files, settings: Mapping[str, Any], output: Path) -> dict[str, Any]:
    pages = []
    for path in sorted([*output.parent.glob("index.html"), *output.parent.glob("*/index.html")]):
        if found := site.about(path.read_text(encoding="utf-8")):
            pages.append({**found, "link": os.path.relpath(path, output.parent)})
    print(f"{len(pages)} experiments")
    return {"pages": pages}
