"""Runs a notebook in a folder of its own: `make notebook`, with the settings that it has, and a test, with small ones.

python tests/notebook.py docs/smollm2.ipynb        the folder is results/notebook, and so is the one with its outputs
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat


def run(notebook: Path, folder: Path, settings: Mapping[str, Any]) -> nbformat.NotebookNode:
    """With other values of the names that its first cell of code sets. Raises CellExecutionError where a cell fails."""
    from nbclient import NotebookClient

    found = nbformat.read(notebook, as_version=4)
    first = next(cell for cell in found.cells if cell.cell_type == "code")
    for name, value in settings.items():
        first.source, times = re.subn(rf"^{name} = .*?(?=  #|$)", f"{name} = {value!r}", first.source, flags=re.M)
        assert times == 1, f"{notebook} sets no {name}"
    NotebookClient(found, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
    return found


if __name__ == "__main__":
    place = Path("results/notebook")
    place.mkdir(parents=True, exist_ok=True)
    source = Path(sys.argv[1])
    nbformat.write(run(source, place, {}), place / source.name)
    print(f"With its outputs: {place / source.name}")
