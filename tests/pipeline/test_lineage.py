"""A change is never lost: whatever fails or is killed after an edit, the next run ends in what a fresh one makes."""

import base64
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import tiny
from pruning.core.artifacts import read_provenance
from workspace import Workspace, verified

TABLE = "results/table1.csv"
KILL = "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)"  # the parent of the job's shell: snakemake itself
BREAKING = """#!/bin/sh
case "$*" in *scripts/$BROKEN.py*) eval "$BREAK";; esac
PATH="${PATH#*:}" exec python "$@"
"""


@pytest.fixture(scope="session")
def breaking(tmp_path_factory) -> list[str]:
    """A folder, to be first in PATH, with a `python` that does what BREAK says where it is to run the stage BROKEN."""
    folder = tmp_path_factory.mktemp("breaking")
    (folder / "python").write_text(BREAKING)
    (folder / "python").chmod(0o755)
    return [str(folder)]


@pytest.fixture
def run(finished: Workspace, tmp_path: Path) -> Workspace:
    """A finished run of one's own."""
    shutil.copytree(finished.path, tmp_path, dirs_exist_ok=True)
    return Workspace.at(tmp_path)


OTHER_TEXT = {"calibrations.gsm_symbolic-s0.seed": 7, "datasets.gsm_symbolic.seed": 3}


def test_a_setting_that_a_job_refuses_is_refused_again(run: Workspace):
    """Where the second run once said «Nothing to be done» beside the old table."""
    run.configure({"methods.random.options.seed": "x"})
    for _ in range(2):
        done = run.snakemake(TABLE, check=False)
        assert done.returncode == 1 and "error: score 'random' with options {'seed': 'x'}" in done.stderr, done.stderr


@pytest.mark.parametrize("how", ["exit 1", KILL], ids=["fails", "killed"])
def test_after_an_edit_and_a_failure_the_table_is_out_of_date(run: Workspace, breaking, how: str):
    """Whichever stage it is: each run makes what the one before broke at, and breaks at the next."""
    run.configure(OTHER_TEXT)
    for stage in ("fetch_dataset", "merge_calibration", "score", "mask", "compact", "evaluate"):
        done = run.snakemake(TABLE, check=False, before=breaking, BROKEN=stage, BREAK=how)
        assert done.returncode == (1 if how == "exit 1" else -9), (stage, done.stderr)
        assert run.planned(TABLE)["table"] == 1, stage


def working_folders() -> Iterator[str]:
    """Of all processes."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            yield process.cwd()


def test_edits_failures_and_kills_end_in_what_a_fresh_run_makes(run: Workspace, breaking, tmp_path_factory):
    """One after another, in one folder; each takes something away that the next does not look for."""
    for stage, how, edits in (
        ("score", "exit 1", OTHER_TEXT),
        ("compact", KILL, {"methods.rku.round_to": 8}),
        ("mask", "exit 1", {"methods.rku.round_to": 4}),
        ("evaluate", KILL, {"tasks.gsm_symbolic.max_gen_toks": 20}),
        ("report", "exit 1", {"tables.table1.title": "Another"}),
    ):
        run.configure(edits)
        assert run.snakemake(TABLE, check=False, before=breaking, BROKEN=stage, BREAK=how).returncode
        while any(folder == str(run.path) for folder in working_folders()):  # jobs that a killed run has left at work
            time.sleep(0.1)
    run.snakemake(TABLE)
    fresh = tmp_path_factory.mktemp("fresh")
    shutil.copytree(run.path / "resources/model", fresh / "resources/model")
    new = Workspace(fresh)
    shutil.copy(run.path / "test.yaml", fresh / "test.yaml")
    new.snakemake(TABLE)
    assert new.unlike(run) == []


def test_a_deleted_intermediate_is_made_again_only_where_it_is_needed(run: Workspace):
    folder = run.path / "results/tiny-reasoner"
    shutil.rmtree(folder / "scores")
    assert run.planned(TABLE) == {}
    run.configure({"methods.rku.round_to": 8})
    assert run.planned(TABLE)["score"] == 1


def test_a_deleted_intermediate_that_is_needed_again_leaves_what_was_made_from_it(run: Workspace):
    """Second moments are deleted after use. One sparsity more makes them again, and no other sparsity's model."""
    made = [f"results/tiny-reasoner/compact/gsm_symbolic-s0/ridge_wanda/{each}/manifest.json" for each in (40, 50)]
    run.snakemake(made[1])
    assert not (run.path / "results/tiny-reasoner/calibration/gsm_symbolic-s0/second_moments").exists()
    assert run.planned(made[1]) == {}
    more = {"second_moments": 1, "mask": 1, "compact": 1}
    assert run.planned(*made) == more
    assert run.planned("results/tiny-reasoner/calibration/gsm_symbolic-s0/second_moments") == {"second_moments": 1}

    before = (run.path / made[1]).stat().st_mtime_ns
    run.snakemake(*made)
    assert (run.path / made[1]).stat().st_mtime_ns == before and run.planned(*made) == {}
    run.configure({"calibrations.gsm_symbolic-s0.seed": 7})
    assert run.planned(*made)["compact"] == 2 and run.planned(*made)["second_moments"] == 1


def test_an_intermediate_that_comes_out_other_than_it_was_is_seen(run: Workspace):
    """As numbers of another processor would: the next run makes again what was made from the first."""
    made = [f"results/tiny-reasoner/compact/gsm_symbolic-s0/ridge_wanda/{each}/manifest.json" for each in (40, 50)]
    run.snakemake(made[1])
    run.snakemake(*made)
    record = run.path / "results/tiny-reasoner/calibration/gsm_symbolic-s0/second_moments.json"
    record.write_text(record.read_text().replace("{", "{ ", 1))
    assert run.planned(*made)["compact"] == 2


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer_config.json"])
def test_an_older_file_in_place_of_a_users_own_is_seen(run: Workspace, file: str):
    """As `cp -p` and `tar` put it there: time stamps say that nothing was changed."""
    path = run.path / "resources/model" / file
    stat = path.stat()
    if file.endswith("safetensors"):
        tiny.save(tiny.qwen2(seed=1), path.parent)
    else:
        path.write_text(path.read_text() + " ")
    os.utime(path, (stat.st_mtime - 10**6, stat.st_mtime - 10**6))
    assert f"was made from another resources/model/{file}" in verified(run, 1)
    assert run.planned(TABLE)["fetch_model"] == run.planned(TABLE)["table"] == 1


def test_an_older_artefact_put_back_is_refused(run: Workspace):
    path = run.path / "results/tiny-reasoner/masks/gsm_symbolic-s0/wanda/50.parquet"
    older = path.read_bytes()
    run.configure({"methods.wanda.round_to": 8})
    run.snakemake(TABLE)
    path.write_bytes(older)
    done = run.snakemake(TABLE, check=False)
    assert done.returncode == 1 and "wanda/50.parquet: was made with other settings" in done.stderr, done.stderr


def test_results_of_other_settings_without_snakemakes_record_are_refused(run: Workspace):
    shutil.rmtree(run.path / ".snakemake")
    now = time.time()
    for path in (run.path / "results").rglob("*"):  # without the record times count; other tests have touched the code
        os.utime(path, (now, now))
    assert run.planned(TABLE) == {}  # of the same settings
    run.configure({"methods.wanda.round_to": 8})
    done = run.snakemake("-n", TABLE, check=False)
    output = done.stdout + done.stderr
    assert done.returncode and re.search(r"error: results/\S+: was made with other settings", output), output
    assert "Traceback" not in output


def test_every_job_of_the_paper_is_told_of_the_jobs_that_make_its_inputs(paper: Workspace):
    """By induction each then holds its whole line of ancestors."""
    records, own, parents, state = {}, {}, {}, paper.path / ".snakemake/metadata"
    for file in (path for path in state.rglob("*") if path.is_file()):
        record = json.loads(file.read_text())
        place = base64.urlsafe_b64decode(str(file.relative_to(state)).replace("/", "").replace("@", "")).decode()
        told = "".join(re.findall(r"(?:\"lineage\": \"|^')([0-9a-f]{10,})['\"]", "\n".join(record["params"]), re.M))
        records[place] = record
        own[place], *parents[place] = re.findall(".{10}", told)
    made = {record["rule"] for record in records.values()}
    assert made >= {"recover", "second_moments", "costs", "first_page", "figure"}
    for place, record in records.items():
        if record["rule"] != "costs":  # whose inputs are ancient
            assert {own[file] for file in record["input"] if file in own} <= {own[place], *parents[place]}, place
        if place.endswith(".parquet") and (paper.path / place).is_file():  # another test's job may have been refused
            assert read_provenance(paper.path / place)["lineage"] == own[place]
