"""The notebook of the documentation, run from beginning to end, on a tiny model."""

import re
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import notebook
import tiny
from workspace import ROOT, python

NOTEBOOK = ROOT / "docs/smollm2.ipynb"


def test_it_runs(tmp_path: Path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setattr(sys, "executable", python())  # the kernel is a fork, and so is what it starts
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "scripts"))
    tiny.save(tiny.qwen2(), tmp_path / "Model")
    small = {"MODEL": "Model", "SPARSITIES": [0.5], "RECORDS": 60, "TOLERANCE": 0.99}
    done = notebook.run(NOTEBOOK, tmp_path, small)
    printed = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", []))
    assert "23,872 -> 20,800 parameters" in printed and "--- pruned" in printed and "Error" not in printed


def test_kept_outputs_are_whole_and_small():
    """None, or of every cell that prints, in order, without errors and paths of the machine that made them."""
    import nbformat

    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    if not any(cell.outputs for cell in cells):
        assert cells and all(cell.execution_count is None for cell in cells)
        return
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kept = [output for cell in cells for output in cell.outputs]
    assert len(kept) >= len(cells) - 2 and {output.output_type for output in kept} <= {"stream", "execute_result"}
    assert NOTEBOOK.stat().st_size < 40_000 and not re.search(r"/(root|home|tmp|work)/", NOTEBOOK.read_text())


LONG = "".join(f"{number}\n" for number in range(100))


def test_outputs_are_shortened():
    table = {"text/plain": "a  1", "text/html": "<table>"}
    outputs = [new_output("stream", text=LONG), new_output("execute_result", data=table, execution_count=1)]
    cell = new_code_cell("x", outputs=outputs, metadata={"execution": {"iopub.execute_input": "now"}})
    (made,) = notebook.shortened(new_notebook(cells=[cell])).cells
    assert made.outputs[0].text.splitlines() == ["… 70 lines before", *map(str, range(70, 100))]
    assert made.outputs[1].data == {"text/plain": "a  1"} and made.metadata == {}
