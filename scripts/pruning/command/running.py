"""Runs of the workflow in a folder of `prune`: one is started and shown, and later it is said what it is at."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from pruning.command.request import Request, check
from pruning.core import artifacts, locks, memory, names, workflow
from pruning.core.errors import InputError, within
from pruning.core.plugins.snakemake_logger_plugin_pruning import Bar, name_of

CONFIG, LOG, EVENTS = "prune.yaml", "prune.log", ".prune-events.jsonl"
START = ".prune-start.yaml"
"""The configuration of what comes before the one that is shown: fetching, and looking for sparsities."""
STATE = ".prune"
"""The folder of the lock that a run of `prune`, or a plan of one, has of `--out`: both write its data."""
PAGE, TEXT_PAGE = "decision.html", "decision.md"
PAGE_WRITTEN = "page_written"
"""The event that ends a run, whose page it is; one of an earlier run may be there all the time."""

NO_PAGE = ", and its page is not written: the same command as before goes on from here"


def one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """Of a request, and nothing else at the same time in its folder. Raises InputError where something is, and as
    request.check does before that folder is made."""

    @wraps(function)
    def locked(request: Request, *rest: Any, **named: Any) -> Any:
        check(request)
        with ExitStack() as stack:
            with within("--out: "):
                stack.enter_context(locks.held(request.out / STATE))
                if locks.alive(request.out / ".snakemake"):
                    raise InputError(f"a run of Snakemake is active in {request.out}: wait for its end, or stop it")
            return function(request, *rest, **named)

    return locked


def run(request: Request, what: str, *targets: str, config: str = CONFIG, alone: str | None = None) -> None:
    """Run the workflow in `request.out`, by the configuration of this name, and show its progress. alone: a rule whose
    one job has all cores, as nothing else can run beside it.

    Raises InputError with the failed job's own words."""
    out = request.out
    arguments = ["--snakefile", str(names.HOME / "Snakefile"), "--directory", str(out), "--cores", str(request.cores)]
    arguments += ["--resources", f"mem_mb={int(memory.physical() / 1e6)}"]  # jobs at once fit in
    arguments += ["--set-threads", f"{alone}={request.cores}"] if alone else []
    arguments += ["--configfile", str(out / config), "--", *targets]
    said = within(f"{what}: ", f" (all of it: {out / LOG})")
    with said, (out / LOG).open("a+") as log, (out / EVENTS).open("a", buffering=1) as kept, Bar(what) as bar:
        for event in workflow.events(arguments, log):
            kept.write(json.dumps(event | {"of": what}) + "\n")
            bar.show(event)


def put(path: Path, text: str) -> bool:
    """Write, but leave a file that says the same alone. Return whether it said something else before."""
    there = path.is_file()
    if there and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with artifacts.atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return there


def read(path: Path) -> list[dict[str, Any]]:
    """Return the events of the last run in a file; none where there is no file. Lines that a full disk tore are left
    out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with suppress(json.JSONDecodeError):
            events.append(json.loads(line))
    starts = [number for number, event in enumerate(events) if event["event"] == "workflow_started"]
    return events[starts[-1] :] if starts else events


def lines(events: Iterable[Mapping[str, Any]], out: Path) -> list[str]:
    """Return how far a run in `out` is, then the jobs that failed, with their last words, or those at work, with the
    progress that their logs end with.

    events: the run's (core/plugins), with what the run is of."""
    left, failed, done, what = {}, {}, None, ""
    *jobs, last = [*events] or [{"event": "no run"}]
    there = last["event"] == PAGE_WRITTEN
    for event in jobs if there else [*jobs, last]:
        what = f"{event['of']}: " if "of" in event else ""
        if event["event"] == "nothing_to_do":
            if locks.alive(out / STATE):
                return ["at work: the next step is being prepared"]
            return ["all jobs have ended"] if there else [f"the last step has ended{NO_PAGE}"]
        if event["event"] == "job_info":
            left[event["jobid"]] = event
        elif event["event"] == "job_finished":
            left.pop(event["job_id"], None)
        elif event["event"] == "job_error":
            failed[event["jobid"]] = left.pop(event["jobid"], event)
        elif event["event"] == "progress":
            done = f"{event['done']} of {event['total']} steps ({event['done'] / event['total']:.0%}) done"
    said = [what + (done or "no job has ended yet")]
    for job in failed.values():
        words = workflow.words_of(logs(job, out)).splitlines() or [f"see {out / LOG}"]
        said.append(f"failed: {name_of(job)}: {words[-1]}")
    if locks.alive(out / STATE) or locks.alive(out / ".snakemake"):
        at_work = [] if failed else left.values()
        said += [f"at work: {name_of(job)}{workflow.progress_of(logs(job, out))}" for job in at_work]
    elif not failed and (left or not done):
        said += [f"stopped: {name_of(job)}" for job in left.values()] + ["the same command as before goes on from here"]
    elif not failed:
        said.append(f"the page is there: {out / PAGE}" if there else f"that step has ended{NO_PAGE}")
    return said


def logs(job: Mapping[str, Any], out: Path) -> list[Path]:
    return [out / log for log in job.get("log") or []]
