"""A run in a process of its own: its events, its progress and its errors."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pruning.core import workflow
from pruning.core.errors import InputError

SNAKEFILE = """
rule all:
    input: "a.txt", "b.txt"
rule made:
    output: "{name}.txt"
    log: "{name}.log"
    shell: "{FAILING}touch {output}"
"""


def written(folder: Path, failing: str = "") -> Path:
    (folder / "Snakefile").write_text(SNAKEFILE.replace("{FAILING}", failing))
    return folder


def run(folder: Path) -> list[dict]:
    arguments = ["--snakefile", str(folder / "Snakefile"), "--directory", str(folder), "--cores", "1"]
    with tempfile.TemporaryFile("w+") as messages:
        return list(workflow.events([*arguments, "--show-failed-logs", "--", "all"], messages))


def shown(folder: Path, **variables: str) -> str:
    """What our logger prints, where there is no terminal unless variables of the environment say so."""
    command = [sys.executable, "-m", "snakemake", "--logger", "pruning", "--cores", "1", "--quiet", "rules"]
    environment = {**os.environ, "PYTHONPATH": str(workflow.PLUGINS), **variables}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stderr


def test_events_tell_of_jobs_as_they_are_started_and_finished(forks, tmp_path):
    folder = written(tmp_path)
    events = run(folder)
    jobs = {event["jobid"]: event for event in events if event["event"] == "job_info"}
    made = [job for job in jobs.values() if job["rule_name"] == "made"]
    found = sorted((job["wildcards"]["name"], *job["output"], *job["log"]) for job in made)
    assert found == [("a", "a.txt", "a.log"), ("b", "b.txt", "b.log")]
    assert [event["job_id"] for event in events if event["event"] == "job_finished"][-1] in jobs
    assert events[0] == {"event": "workflow_started"} and events[1]["stats"]["total"] == 3
    assert {"event": "progress", "done": 3, "total": 3} in events
    assert [event["event"] for event in run(folder)] == ["workflow_started", "nothing_to_do"]


@pytest.mark.parametrize(
    ("failing", "message"),
    [("echo start > {log}; echo 'error: no room' >> {log}; exit 1; ", "^no room$"), ("exit 1; {nothing}", "nothing")],
)
def test_a_failed_run_ends_in_its_own_words(forks, tmp_path, failing, message):
    with pytest.raises(InputError, match=message):
        run(written(tmp_path, failing))


def test_without_a_terminal_each_finished_job_is_a_line_and_on_one_there_is_a_bar(forks, tmp_path):
    lines = shown(written(tmp_path)).splitlines()
    assert [line.partition(" jobs, 0:0")[0] for line in lines] == ["1 of 3", "2 of 3", "3 of 3"]
    assert {line.rpartition(": ")[2] for line in lines} == {"made name=a", "made name=b", "all"}
    (tmp_path / "a.txt").unlink()
    said = shown(written(tmp_path, "exit {nothing}; "), FORCE_COLOR="1", COLUMNS="200")
    assert "NameError" in said and "0/3" in said and "Select jobs" not in said


def processes(marked: str) -> set[int]:
    """Processes whose command line has this text."""
    lines = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout.splitlines()
    return {int(line.split()[0]) for line in lines if marked in line and str(os.getpid()) != line.split()[0]}


READER = """
import sys
from pathlib import Path
from pruning.core import workflow
folder = Path(sys.argv[1])
with open(folder / "messages", "w+") as messages:
    for event in workflow.events(["--snakefile", "Snakefile", "--cores", "1", "--", "all"], messages):
        print(event["event"], flush=True)
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_run_whose_reader_ends_ends_with_its_jobs(tmp_path, by):
    """Its reader is a process of its own, to which Ctrl-C means what it does on a terminal: a suite that runs in the
    background has it ignored."""
    folder, name = written(tmp_path, f"sleep 300.{os.getpid()}; "), f"sleep 300.{os.getpid()}"
    environment = {**os.environ, "PYTHONPATH": str(Path(workflow.__file__).parents[2])}
    command = [sys.executable, "-c", READER, str(folder)]
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), "text": True}
    reader = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, **options)
    for line in reader.stdout:
        if line.strip() == "job_info":
            break
    while not processes(name):
        time.sleep(0.1)
    os.kill(reader.pid, by)
    reader.wait(20)
    ended = time.monotonic() + 20
    while processes(str(folder)) | processes(name):
        assert time.monotonic() < ended
        time.sleep(0.1)
    assert not list(folder.glob("*.txt"))
