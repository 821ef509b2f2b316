"""The notebook of the documentation, run from beginning to end, on a tiny model."""

import sys
from pathlib import Path

import pytest

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
    small = {"MODEL": "Model", "SPARSITIES": "50", "METHODS": "magnitude", "RECORDS": 60, "TOLERANCE": 1000}
    done = notebook.run(NOTEBOOK, tmp_path, small)
    printed = "".join(output.get("text", "") for cell in done.cells for output in cell.get("outputs", []))
    assert "FFN 48 -> 24" in printed and "--- pruned" in printed and "Error" not in printed


def test_no_outputs_are_kept_that_could_grow_old():
    import nbformat

    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells and all(cell.outputs == [] and cell.execution_count is None for cell in cells)
