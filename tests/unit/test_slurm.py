"""Whose jobs are whose in Slurm's queue, what is kept while Slurm is silent, and who may ask the hub. The real Slurm
is in tests/cluster."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pruning.core import slurm
from pruning.core.errors import InputError
from workspace import ROOT

RUN = "eb518f41-0e07-45c2-b204-385e00bdeaca"


@pytest.fixture
def program(tmp_path: Path, monkeypatch):
    """Makes programs of Slurm's that do what they are told."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return make


def test_only_unfinished_jobs_of_runs_in_this_folder_count(tmp_path, monkeypatch, program):
    monkeypatch.setenv("SLURM_JOB_ID", "6")  # snakemake itself within a job
    (tmp_path / "link").symlink_to(tmp_path)
    lines = [f"1|{RUN}|{tmp_path}", f"2|{RUN}|{tmp_path}/other", f"3|bash|{tmp_path}", f"4|my_run-1_{RUN}|{tmp_path}"]
    lines = [f"10|{RUN}|{tmp_path}/link", f"6|{RUN}|{tmp_path}", *reversed(lines)]
    program("squeue", "\n".join(["cat <<'END'", *lines, "END"]))
    assert slurm.live_jobs(tmp_path) == ["1", "4", "10"]
    slurm.refuse_twice(tmp_path, submits=False)  # no run there was through Slurm
    for submits in (True, False):
        with pytest.raises(InputError, match="^3 Slurm jobs of an earlier run .*: scancel 1 4 10$"):
            slurm.refuse_twice(tmp_path, submits=submits)


def test_a_silent_slurm_stops_its_own_runs_alone_and_others_do_not_wait_for_it(tmp_path, program):
    program("squeue", f"echo >> {tmp_path}/asked\necho cannot reach it >&2\nexit 1")
    slurm.refuse_twice(tmp_path, submits=False)
    assert not (tmp_path / "asked").exists()
    with pytest.raises(InputError, match=r"^squeue does not answer \(cannot reach it\)"):
        slurm.refuse_twice(tmp_path, submits=True)
    slurm.refuse_twice(tmp_path, submits=False)
    assert (tmp_path / "asked").read_text() == 2 * "\n"


@pytest.mark.parametrize(("answers", "kept"), [(True, ["b"]), (False, ["a", "b"])])
def test_jobs_that_slurm_says_nothing_about_are_kept(answers, kept):
    class Executor:
        _status_query_calls, run_job = 0, None

        async def check_active_jobs(self, active_jobs):
            if answers:
                self._status_query_calls += 1
                yield active_jobs[-1]  # the other one has ended

    slurm.survive_outages(Executor)

    async def all_of():
        return [job async for job in Executor().check_active_jobs(["a", "b"])]

    assert asyncio.run(all_of()) == kept


def test_a_submission_waits_for_the_controller(tmp_path, program):
    asked, submitted = tmp_path / "asked", []
    ping = f'echo "Slurmctld(primary) at a is $(test $(wc -l < {asked}) -lt 3 && echo DOWN || echo UP)"'
    program("scontrol", f"echo asked >> {asked}\n{ping}")

    class Executor:
        check_active_jobs = None

        def run_job(self, job):
            submitted.append((job, len(asked.read_text().split())))

    slurm.survive_outages(Executor, pause=0)
    Executor().run_job("a")
    assert submitted == [("a", 3)]


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        ("fetch_dataset.py", '{"kind": "hub", "repo": "a/b", "name": null, "revision": "main", "split": "test", '
         '"data_files": null, "adapter": null, "fields": {}}'),
        ("fetch_model.py", '{"kind": "hub", "repo": "a/b", "revision": "main"}'),
    ],
)  # fmt: skip
def test_where_the_hub_is_closed_the_target_to_fetch_elsewhere_is_named(tmp_path, script, settings):
    target = tmp_path / "there/manifest.json"
    split = ["--split", "test"] if script == "fetch_dataset.py" else []
    command = [sys.executable, ROOT / "scripts" / script, "--settings", settings, *split, "--output", target]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"fetch on a machine with internet, `snakemake --cores 1 {target}`")
