"""Runs a notebook in a folder of its own: `make notebook`, with the settings that it has, and a test, with small ones.

python tests/notebook.py docs/smollm2.ipynb        in results/notebook; its outputs, shortened, are kept in the notebook
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

LINES = 30
"""Of what a cell prints that are kept."""
KEPT = ("text/plain", "text/markdown")


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


def shortened(found: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the ends of what was printed, without times of execution, ids and what widgets have left."""
    for cell in found.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                lines = [line.rsplit("\r", 1)[-1] for line in output.text.rstrip("\n").split("\n")]
                rest = [] if len(lines) <= LINES else [f"… {len(lines) - LINES} lines before"]
                output.text = "\n".join([*rest, *lines[-LINES:]]) + "\n"
            else:
                output.data = {kind: text for kind, text in output.data.items() if kind in KEPT}
    found.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},  # for the site
    }
    return found


if __name__ == "__main__":
    place = Path("results/notebook")
    place.mkdir(parents=True, exist_ok=True)
    source = Path(sys.argv[1])
    done = run(source, place, {})
    nbformat.write(done, place / source.name)
    nbformat.write(shortened(done), source)
    print(f"With all of its outputs: {place / source.name}; shortened: {source}")
