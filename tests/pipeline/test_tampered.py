"""Changed files of a finished run: whoever reads one refuses it in one line, and `verify` finds it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from workspace import Workspace, verified

ADAPTER = "results/tiny-reasoner/recovered/gsm_symbolic-s0/wanda/50/gsm_symbolic"
VARIANT = "results/tiny-reasoner/eval/gsm_symbolic-s0/wanda/50"
COMPACT = "results/tiny-reasoner/compact/gsm_symbolic-s0/wanda/50/model"
TEST, LEAKAGE = "results/data/gsm_symbolic/test.parquet", "results/leakage/table1.csv"


@pytest.fixture(scope="module")
def whole(finished: Workspace, tmp_path_factory) -> Workspace:
    """A copy of the finished run, with an adapter."""
    copy = tmp_path_factory.mktemp("tampered") / "run"
    shutil.copytree(finished.path, copy)
    Workspace.at(copy).snakemake(f"{ADAPTER}/recovery.json")
    return Workspace.at(copy)


@pytest.fixture
def recovered(whole: Workspace, tmp_path: Path) -> Workspace:
    """One to change: a job that fails takes its outputs with it."""
    shutil.copytree(whole.path, tmp_path / "run")
    return Workspace.at(tmp_path / "run")


def edited(old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def shuffled(path: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.take(list(range(len(table)))[::-1]), path)


def doubled(path: Path) -> None:
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)


# what -> (file, change, what is made from it, the error)
TAMPERED = {
    "test items shuffled": (TEST, shuffled, f"{VARIANT}/gsm_symbolic.json", "test.parquet: was changed"),
    "leakage edited": (LEAKAGE, edited("gsm_symbolic", "gsm"), "results/table1.csv", "table1.csv: was changed"),
    "an adapter's alpha": (
        f"{ADAPTER}/adapter_config.json",
        edited('"lora_alpha": ', '"lora_alpha": 9'),
        f"{VARIANT}/gsm_symbolic/gsm_symbolic.json",
        "adapter_config.json: is not the file that",
    ),
    "an adapter's weights, to be exported": (
        f"{ADAPTER}/adapter_model.safetensors",
        doubled,
        "results/tiny-reasoner/export/gsm_symbolic-s0/wanda/50/gsm_symbolic/model",
        "adapter_model.safetensors: is not the file that",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_it_is_refused_and_found(recovered: Workspace, name: str):
    file, change, target, words = TAMPERED[name]
    change(recovered.path / file)
    done = recovered.snakemake(target, "--forcerun", target, check=False)
    assert done.returncode == 1 and words in done.stdout + done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert words in verified(recovered, 1)


def test_an_adapter_beside_a_compact_models_weights_is_refused(recovered: Workspace):
    folder = recovered.path / COMPACT
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(recovered.path / ADAPTER / name, folder)
    target = f"{VARIANT}/gsm_symbolic.json"
    done = recovered.snakemake(target, "--forcerun", target, check=False)
    assert done.returncode == 1 and "holds weights and a LoRA adapter" in done.stdout + done.stderr


def test_answers_of_a_sibling_are_not_believed(recovered: Workspace):
    """Wanda's, in the dense model's place and at its end: its results stay, to the byte."""
    results = recovered.path / "results/tiny-reasoner/eval"
    dense = results / "dense/gsm_symbolic.samples.parquet"
    (own,) = dense.parent.glob(".gsm_symbolic.*.jsonl")
    (theirs,) = (recovered.path / VARIANT).glob(".gsm_symbolic.*.jsonl")
    responses = [json.loads(line)["response"] for line in own.read_text().splitlines()]
    expected, lines = dense.read_bytes(), own.read_bytes()
    for content in (theirs.read_bytes(), lines + theirs.read_bytes()):
        own.write_bytes(content)
        target = str(dense.relative_to(recovered.path))
        recovered.snakemake(target, "--forcerun", target)
        assert dense.read_bytes() == expected
    assert responses != [json.loads(line)["response"] for line in theirs.read_text().splitlines()]


def test_what_nobody_changed_is_whole(finished: Workspace):
    assert ": 0 mistakes" in verified(finished, 0)
