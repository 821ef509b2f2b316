"""The pipeline through a real Slurm of two nodes, with the profile as shipped: what it submits, what it survives."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from slurm import Slurm, descendants, parents, until
from workspace import Workspace, changed

# Each rule notes its starts in a file. `grown` and the rest of the workflow's names are those of rules/common.smk.
OWN = """
rule nap:
    output: "nap{number}.txt"
    resources: mem_mb=grown(600)
    shell: "echo {wildcards.number} $SLURM_JOB_ID >> starts; sleep 25; echo $HF_HUB_OFFLINE > {output}"

rule woken:
    input: "nap1.txt"
    output: "woken.txt"
    resources: mem_mb=grown(600)
    shell: "echo woken $SLURM_JOB_ID >> starts; touch {output}"

localrules: alarm

rule alarm:
    output: "alarm.txt"
    shell: "sleep 20; touch {output}"

rule late:
    input: "alarm.txt"
    output: "late.txt"
    resources: mem_mb=grown(600)
    shell: "echo late $SLURM_JOB_ID >> starts; touch {output}"

rule device:
    output: "device{number}.txt"
    resources: mem_mb=grown(600), gpu=lambda w: int(w.number)
    shell: "echo $SLURM_JOB_PARTITION $SLURM_CPUS_ON_NODE $(printenv CUDA_VISIBLE_DEVICES) > {output}"

rule greedy:
    output: "greedy{megabytes}.txt"
    resources: mem_mb=grown(600)
    shell: "echo greedy {resources.mem_mb} >> starts; "
        "python -c 'import time; held = bytearray({wildcards.megabytes} * 10**6); time.sleep(6)'; touch {output}"

rule slow:
    output: "slow.txt"
    resources: mem_mb=grown(600), runtime=lambda w, attempt: attempt
    shell: "echo slow {resources.runtime} >> starts; sleep 100; touch {output}"

rule broken:
    output: "broken.txt"
    resources: mem_mb=grown(600)
    shell: "echo broken {resources.mem_mb} {resources.runtime} >> starts; exit 3"
"""


def command(targets: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """At most ten minutes of snakemake: a run that hangs is a test that fails."""
    profile = ["--profile", "profiles/slurm", "--configfile", "test.yaml"]
    return ["timeout", "-k", "10", "600", sys.executable, "-m", "snakemake", *profile, *options, "--", *targets]


def through_slurm(own: Workspace, *targets: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess:
    return subprocess.run(command(targets, options), cwd=own.path, capture_output=True, text=True)


@contextmanager
def started(own: Workspace, *targets: str) -> Iterator[subprocess.Popen]:
    """A run in a process group of its own, its output in a file; killed with the test if it has not ended."""
    with (own.path / "run.log").open("w") as log:
        run = subprocess.Popen(command(targets), cwd=own.path, stdout=log, stderr=log, start_new_session=True)
    try:
        yield run
    finally:
        members = descendants(run.pid)
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        until(lambda: not parents().keys() & members, 10, "all of it is gone, its lock with it")


def starts(own: Workspace) -> list[str]:
    file = own.path / "starts"
    return file.read_text().splitlines() if file.exists() else []


def submitted(cluster: Slurm, folder: Path) -> list[list[str]]:
    """Every job that a run in the folder has submitted: number, partition, CPUs, memory, time limit, comment."""
    return [job[1:] for job in cluster.jobs("%Z|%i|%P|%C|%m|%l|%k") if job[0] == str(folder)]


def test_table1_is_that_of_the_local_run_to_the_byte(idle: Slurm, workspace: Workspace, finished: Workspace):
    done = through_slurm(workspace, "results/table1.csv")
    assert done.returncode == 0, done.stderr[-4000:]
    jobs = submitted(idle, workspace.path)
    assert len(jobs) == 22  # of 30: three fetch here, and six masks are one
    assert {job[1] for job in jobs} == {"cpu"}
    assert not [job for job in jobs if "fetch" in job[5]]
    assert [job[2:5] for job in jobs if "mask" in job[5]] == [["1", "1000M", "18:00"]]
    assert len(workspace.artefacts()) == 79 and workspace.unlike(finished) == []


def test_a_model_may_be_made_of_the_masks_of_another(cluster: Slurm, own: Workspace):
    """Their masks in one group would wait for each other; a dry-run looks for that."""
    second = "{source: {kind: pruned, model: tiny-reasoner, calib: gsm_symbolic-s0, method: wanda, sparsity: 25}}"
    config = own.path / "test.yaml"
    config.write_text(config.read_text().replace("datasets:\n", f"  second: {second}\ndatasets:\n", 1))
    done = through_slurm(own, "results/second/masks/gsm_symbolic-s0/rku/50.parquet", options=["-n"])
    assert done.returncode == 0 and "depends on itself" not in done.stderr, done.stderr[-2000:]
    assert re.search(r"^mask +2$", done.stdout, re.M)


def test_jobs_go_to_the_gpu_partition_when_they_ask_for_gpus(idle: Slurm, own: Workspace):
    done = through_slurm(own, *(f"device{number}.txt" for number in range(3)))
    assert done.returncode == 0, done.stderr[-4000:]
    given = [(own.path / f"device{number}.txt").read_text().split() for number in range(3)]
    assert given == [["cpu", "1"], ["gpu", "1", "0"], ["gpu", "1", "0,1"]]


def test_sbatchs_reason_is_shown_when_it_refuses(idle: Slurm, own: Workspace):
    partitions = own.path / "profiles/slurm/partitions.yaml"
    with changed(partitions, partitions.read_text().replace("  cpu:", "  nosuch:")):
        done = through_slurm(own, "device0.txt", "device3.txt")
    assert done.returncode == 1
    assert "invalid partition specified: nosuch" in done.stderr
    assert "Requested node configuration is not available" in done.stderr
    assert done.stderr.count("SLURM sbatch failed") == 6  # each of the two, three times
    assert "Traceback" not in done.stderr and not list(own.path.glob("device*.txt"))


def test_a_killed_run_started_again_submits_nothing_twice(idle: Slurm, own: Workspace):
    targets = [f"nap{number}.txt" for number in range(4)]
    with started(own, *targets):
        until(lambda: len(starts(own)) == 4, 60, "four jobs run")
    again = through_slurm(own, *targets)
    numbers = [job[0] for job in submitted(idle, own.path)]
    assert again.returncode == 1
    assert f"error: 4 Slurm jobs of an earlier run are still active in {own.path}" in again.stderr
    assert f"scancel {' '.join(numbers)}\n" in again.stderr and "Traceback" not in again.stderr
    until(lambda: not idle.jobs("%i", "PENDING,RUNNING,COMPLETING"), 90, "they end")
    last = through_slurm(own, *targets)
    assert last.returncode == 0 and "Nothing to be done" in last.stderr, last.stderr[-4000:]
    assert len(submitted(idle, own.path)) == len(starts(own)) == 4
    assert {(own.path / target).read_text() for target in targets} == {"1\n"}  # and the hub is closed there


def test_memory_and_time_grow_until_they_suffice(idle: Slurm, own: Workspace):
    done = through_slurm(own, "greedy900.txt", "slow.txt", "greedy9000.txt", "broken.txt")
    assert done.returncode == 1
    noted = starts(own)
    assert (own.path / "greedy900.txt").exists() and (own.path / "slow.txt").exists()
    assert [line for line in noted if "slow" in line] == ["slow 1", "slow 2"]
    assert [line for line in noted if "broken" in line] == [f"broken {600 * n} {60 * n}" for n in (1, 2, 3)]
    assert sorted(line for line in noted if "greedy" in line) == sorted(
        f"greedy {600 * n}" for n in (1, 2, 1, 2, 3)
    )  # the small one twice, the other one three times
    assert len(submitted(idle, own.path)) == len(noted) == 10
    assert "SLURM status is: 'TIMEOUT'" in done.stderr
    assert "Exceeded job memory limit" in done.stderr


def test_a_nodes_death_costs_its_jobs_a_second_start(idle: Slurm, own: Workspace):
    with started(own, "nap0.txt", "nap1.txt", "nap2.txt") as run:
        until(lambda: len(starts(own)) == 3, 60, "three jobs run")
        lost = [number for number, node in idle.jobs("%i|%N", "RUNNING") if node == "n2"]
        idle.kill_node("n2")
        assert run.wait() == 0, (own.path / "run.log").read_text()[-4000:]
    assert len(submitted(idle, own.path)) == 3
    assert len(lost) >= 1 and len(starts(own)) == 3 + len(lost)
    assert sorted(line.split()[1] for line in starts(own)[3:]) == sorted(lost)


def test_a_restart_of_the_controller_is_waited_for(idle: Slurm, own: Workspace):
    with started(own, "woken.txt", "late.txt") as run:
        until(lambda: len(starts(own)) == 1, 60, "the job runs")
        idle.stop_controller()
        time.sleep(60)  # the job ends, and its state is asked for in vain; another one cannot be submitted
        idle.start_controller()
        assert run.wait(timeout=240) == 0, (own.path / "run.log").read_text()[-4000:]
    assert sorted(line.split()[0] for line in starts(own)) == ["1", "late", "woken"]
    assert len(submitted(idle, own.path)) == 3
