"""The published numbers: as tests/verify_paper.py compared them with the paper, and in the form that stages expect."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "resources/paper"
# As tests/verify_paper.py prints them when it finds no difference: run it again before changing one of these.
VERIFIED = {
    "notes.yaml": "70c3a831d49b9f317e6ed4507e4e84bd9f9aa47591157de6085f5b19e9fe0115",
    "table1.csv": "969917b39baf401b86b7a1ed4fe362012f73733a2fe9724ab979dbc4be0f8703",
    "table2.csv": "705b008ab86d9552c8b55f7eed5a31841e0b9fbcc1df93bb603010d157c810fa",
    "table3.csv": "06d2a3707227fa3249fbf49a1b83189ccf6c52ad0ac0ab09c98cb47670927cdd",
    "table4.csv": "e5490f1dfeaa3e76409b4116690a53cc90cd7f29d21bf8796cdffe1f94f23388",
    "table6.csv": "1682c981331b263745bf3866c48a688a9aba2f9fd034540006b22675d2fb98e9",
    "table7.csv": "3963a08de7ccad0ed5abc949be28059cda415599e0741d6ff60498deabf34389",
}
ROWS = {1: 24, 2: 24, 3: 48, 6: 110, 7: 79}
METRICS = {"gsm8k": "exact_match,strict-match", "wikitext2": "perplexity", "c4": "perplexity"}


def table(n):
    return pd.read_csv(PAPER / f"table{n}.csv", keep_default_na=False, dtype={"layer": str, "tuning": str})


def test_files_are_as_verified():
    files = [*PAPER.glob("*.csv"), *PAPER.glob("*.yaml")]
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == VERIFIED


@pytest.mark.parametrize("n", ROWS)
def test_columns_and_values(n):
    frame = table(n)
    assert list(frame) == ["model", "method", "presets", "sparsity", "task", "tuning", "metric", "value"]
    assert len(frame) == ROWS[n]
    assert not frame.duplicated(["method", "sparsity", "task", "tuning"]).any()
    assert set(frame["model"]) == {"llama-3-8b" if n in (2, 7) else "qwen2_5-7b"}
    assert list(frame["metric"]) == [METRICS.get(task, "acc") for task in frame["task"]]
    perplexity = frame["metric"] == "perplexity"
    assert frame.loc[~perplexity, "value"].between(0.01, 0.9).all() and frame.loc[perplexity, "value"].ge(5).all()
    assert ((frame["sparsity"] == 0) == (frame["presets"] == "dense")).all()
    assert frame["sparsity"].between(0, 0.75).all()
    assert set(frame["tuning"]) == ({"", "gsm8k-150", "aqua-150"} if n == 3 else {""})


def test_overlap_columns_and_values():
    frame = table(4)
    columns = ["model", "first", "second", "first_presets", "second_presets", "layer", "sparsity", "value"]
    assert list(frame) == columns and len(frame) == 27
    series = frame.groupby(["first", "second", "layer"])
    assert set(series.groups) == {("RKU", "Taylor-FO", ""), ("RKU", "Wanda-Struct", ""), ("RKU", "Wanda-Struct", "26")}
    for _, rows in series:
        assert list(rows["sparsity"]) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        assert rows["value"].between(0, 1).all() and rows["value"].is_monotonic_decreasing


def test_presets_are_methods_of_the_pipeline():
    presets = pd.concat([*(table(n)["presets"] for n in ROWS), table(4)["first_presets"], table(4)["second_presets"]])
    named = {preset for names in presets for preset in names.split(";")}
    assert named - {"dense"} <= set(yaml.safe_load((ROOT / "config/config.yaml").read_text())["methods"])


def test_cells_by_hand():
    """One of every table, read off the paper by eye."""
    cells = {n: table(n).set_index(["method", "sparsity", "task", "tuning"])["value"] for n in ROWS}
    assert cells[1]["RKU", 0.4, "gsm8k", ""] == 0.1334
    assert cells[2]["Wanda-Struct", 0.6, "winogrande", ""] == 0.5328
    assert cells[3]["RKU", 0.4, "mathqa", "gsm8k-150"] == 0.63
    assert cells[3]["RKU", 0.4, "mathqa", "aqua-150"] == 0.3745
    assert cells[6]["Baseline (Dense)", 0, "wikitext2", ""] == 7.6364
    assert cells[6]["CFSP", 0.75, "c4", ""] == 159.637
    assert cells[7]["AGF", 0.7, "winogrande", ""] == 0.502
    assert ("RKU", 0.7, "winogrande", "") not in cells[7].index  # printed as "-"
    layers = table(4).set_index(["second", "layer", "sparsity"])["value"]
    assert (layers["Wanda-Struct", "26", 0.4], layers["Taylor-FO", "", 0.9]) == (0.619, 0.5138)


def test_every_table_has_notes():
    notes = yaml.safe_load((PAPER / "notes.yaml").read_text())
    assert list(notes) == [f"table{n}" for n in range(1, 8)]
    for lines in notes.values():
        assert lines and all(isinstance(line, str) and line.endswith(".") and "\n" not in line for line in lines)
