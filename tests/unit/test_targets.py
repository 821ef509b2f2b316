"""What is said of files that nothing makes."""

import re
from pathlib import Path

import pytest

from pruning.config.targets import Output, advice
from pruning.core.workflow import words_of

PLAIN = {"model": "a|b-1", "calib": "text", "method": "wanda|wanda_global|rku", "sparsity": r"\d{1,2}"}
VARIANT = r"dense|text/(wanda|rku)/\d{1,2}(/lora)?"


def output(pattern: str, **constraints: str) -> Output:
    names = re.findall(r"\{(\w+)\}", pattern)
    return Output(pattern, {name: re.compile((PLAIN | constraints).get(name, ".+")) for name in names})


OUTPUTS = [
    output("results/{model}/masks/{calib}/{method}/{sparsity}.parquet"),
    output("results/{model}/scores/{calib}/{method}.parquet"),
    output("results/{model}/eval/{variant}/{task}.json", variant=VARIANT, task="gsm|piqa"),
    output("results/{model}/export/{variant}/model", variant=VARIANT.removeprefix("dense|")),
    output("results/{model}/answers/{task}.parquet", task="gsm|piqa"),
    output("results/{table}.csv", table="table1|table2"),
    output("results/widths.csv"),
    *(Output(pattern, {}) for pattern in ("{name}.txt", "results/mine/{name}.txt")),  # of a user's own rules
]
DECLARED = {
    "model": ["a", "b-1"],
    "method": ["wanda", "wanda_global", "rku"],
    "table": ["table1", "table2"],
    "task": ["gsm", "piqa"],
    "variant": ["dense", "text", "wanda", "rku"],
}
NAMES = ["paper", "all", "results/widths.csv"]
WANDA, NONE = "results/a/eval/text/wanda/5/gsm.json", "no such rule, and none makes such a file; nearest: "
RECOVERED = "results of a recovered model lie in a folder of its tuning; nearest: "
SAID = {
    "results/tabel1.csv": "no table 'tabel1'; nearest: results/table1.csv, results/table2.csv",
    "results/a/masks/text/wandaa/50.parquet": (
        "no method 'wandaa'; nearest: "
        "results/a/masks/text/wanda/50.parquet, results/a/masks/text/wanda_global/50.parquet"
    ),
    "results/a/masks/text/wanda/500.parquet": r"no sparsity '500'; sparsity is of the form \d{1,2}",
    "results/a/masks/text/quux/50.parquet": "no method 'quux'; declared: rku, wanda, wanda_global",
    "results/b/scores/text/rku.parquet": "no model 'b'; nearest: results/b-1/scores/text/rku.parquet",
    "results/a/eval/txt/wanda/5/gms.json": "no variant 'txt/wanda/5'; no task 'gms'; nearest: " + WANDA,
    "results/a/eval/text/wanda/5/gsm@lora.json": f"{RECOVERED}results/a/eval/text/wanda/5/lora/gsm.json",
    "results/a/eval/text/wanda/5/gsm@lor.json": f"no task 'gsm@lor'; nearest: {WANDA}",
    "results/a/answers/gsm@lora.parquet": "no task 'gsm@lora'; nearest: results/a/answers/gsm.parquet",
    "results/a/mask/text/rku/50.parquet": f"{NONE}results/a/masks/text/rku/50.parquet",
    "results/a/export/dense/model": (
        "no variant 'dense'; a variant is {calib}/{method}/{sparsity} here, or that and /{tuning}"
    ),
    **{"papr": f"{NONE}paper", "x": f"{NONE}none", "results/mini/a.txt": f"{NONE}results/mine/a.txt"},
}


@pytest.mark.parametrize("target", SAID)
def test_the_wrong_part_is_named_and_the_nearest_path_is_whole(target: str):
    assert advice(target, OUTPUTS, DECLARED, NAMES) == f"{target}: {SAID[target]}"


def test_an_absolute_path_is_asked_for_from_here(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = advice(f"{tmp_path}/results/table1.csv", OUTPUTS, DECLARED, NAMES)
    assert said == f"{tmp_path}/results/table1.csv: ask for it by its path from here, results/table1.csv"


def test_nothing_is_said_where_the_mistake_is_elsewhere():
    assert advice("results/a/masks/text/rku/50.parquet", OUTPUTS, DECLARED, NAMES) == ""


def test_a_jobs_words_begin_at_its_error_or_are_the_last(tmp_path: Path):
    (tmp_path / "1").write_text("phase start-up 1 s\nerror: too few\ntokens\n")
    (tmp_path / "2").write_text("".join(f"{n}\n" for n in range(100)))
    assert words_of([tmp_path / "1"]) == "error: too few\ntokens"
    assert words_of([tmp_path / "2"]) == "\n".join(str(n) for n in range(80, 100))
    assert words_of([tmp_path / "none"]) == "it wrote nothing"
