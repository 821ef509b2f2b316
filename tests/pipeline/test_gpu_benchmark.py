"""benchmarks/gpu.py, rehearsed on the CPU in tiny shapes: every part, and what a failing one costs."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from workspace import ROOT, python, run

SCRIPT = ROOT / "benchmarks/gpu.py"


@pytest.fixture
def benchmarks(monkeypatch):
    """What imports a module of that folder, where scripts beside each other find each other."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("common", "calibration", "generation", "memory", "surgeon", "gpu", "gpu_parts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module


def rehearsed(folder: Path, *options: str) -> dict:
    environment = {"PYTHONPATH": str(ROOT / "scripts")}
    command = [python(), str(SCRIPT), "--device", "cpu", "--tiny", "--threads", "1", "--out", "made/gpu", *options]
    done = run(folder, *command, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "made/gpu.md").read_text() in done.stdout
    return json.loads((folder / "made/gpu.json").read_text())


def test_every_part_finds_all_of_its_rows(tmp_path: Path, forking, benchmarks):
    found = rehearsed(tmp_path)
    rows: dict[str, list[dict]] = {}
    for row in found["rows"]:
        rows.setdefault(row["part"], []).append(row)
    notes = [row for row in found["rows"] if "note" in row]
    assert [row["what"] for row in notes] == ["vLLM"] and "not installed" in notes[0]["note"], notes
    counts = {"calibration": 5, "obs": 2, "reconstruction": 4, "training": 4, "speed": 28, "generating": 3, "table1": 3}
    assert {part: len(own) for part, own in rows.items()} == {
        part: counts[part.split()[0]] for part in benchmarks("gpu").PARTS
    }
    for row in found["rows"]:
        if "note" not in row:
            assert row["measured"] >= 0 and (row["expected"] is None or row["expected"] > 0), row
    ours, table = rows["generating qwen2_5-1_5b"][1], rows["table1"]
    assert "4 the same" in ours["what"]
    assert table[1]["expected"] == 6 and 0 <= table[1]["measured"] <= 6  # cells of the table, and of the CPU's
    assert found["shapes"] == "tiny" and found["torch"] == torch.__version__


def test_time_that_is_spent_is_said(tmp_path: Path, forking):
    found = rehearsed(tmp_path, "--minutes", "0", "--only", "table1", "--only", "obs qwen2_5-7b")
    assert found["rows"] == [
        {"part": "table1", "note": "no time was left"},
        {"part": "obs qwen2_5-7b", "note": "no time was left"},
    ]


@pytest.mark.parametrize(
    "then, limit, note",
    [
        ("raise ValueError('no card')", 60, "failed (1): ValueError: no card"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 60, "failed (-11): without a word"),
        ("import time; time.sleep(60)", 2, "stopped after 2 s"),
    ],
)
def test_a_part_that_fails_or_hangs_costs_the_rows_that_it_has_not_written(benchmarks, then, limit, note):
    program = f"import sys; open(sys.argv[-1], 'w').write('{{\"what\": \"first\"}}\\n')\n{then}"
    first, ended = benchmarks("gpu").finished([sys.executable, "-c", program], limit)
    assert first == {"what": "first"} and ended["note"] == note


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_how_to_rehearse(tmp_path: Path, forking):
    done = run(tmp_path, python(), str(SCRIPT), PYTHONPATH=str(ROOT / "scripts"))
    assert done.returncode == 1 and "--device cpu --tiny" in done.stderr and not list(tmp_path.iterdir())


def test_bounds_are_those_of_a_card(benchmarks):
    """Counted by hand for a Qwen2 of one layer: 4 heads of 4 with 2 of keys and values, 8 neurons, 32 words."""
    parts, cards = benchmarks("gpu_parts"), importlib.import_module("pruning.command.cards")
    import tiny

    shape = {"hidden_size": 16, "intermediate_size": 8, "vocab_size": 32}
    model = tiny.qwen2(1, **shape).to(torch.bfloat16)
    products = 16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 8  # q, o; k, v; gate, up, down
    others = 2 * 16 + 16 + 8 + 8  # norms; biases of q, k, v
    slow = cards.Card(tflops=1e-12, gbps=1e300, gb=1)  # a product a second; all memory at once
    scores = 4 * 4 * 10 * 11  # of 10 causal tokens, with their values, in 4 heads of 4
    assert parts.bound(slow, model, 3, 10, 0) == pytest.approx(3 * 2 * (10 * products + scores + 32 * 16))
    weights = products + others + 32 * 16
    assert parts.bound(slow, model, 3, 10, 6) == pytest.approx(6 * 2 * 3 * weights)
    narrow = cards.Card(tflops=1e300, gbps=1e-9, gb=1)  # a byte a second
    cached = 3 * 2 * 8 * (10 + 3)  # keys and values of 3 rows, half of the 6 tokens decoded
    assert parts.bound(narrow, model, 3, 10, 6) == pytest.approx(6 * 2 * (weights + cached))
