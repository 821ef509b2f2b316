"""A logger plug-in of Snakemake: it shows a run's progress, or writes its events for another program.

    PYTHONPATH=scripts/pruning/core/plugins snakemake --logger pruning …  a bar; without a terminal a line per job
    … --logger-pruning-events FILE      Snakemake's own messages, and its events, appended to FILE as JSON Lines

Snakemake finds a plug-in by its name, among the packages on Python's path and not among those installed as editable. It
loads it before the workflow, so that this file imports nothing of the library.
"""

import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import DefaultFilter
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

FIELDS = {
    "nothing_to_do": (),
    "workflow_started": (),
    "run_info": ("stats",),
    "job_info": ("jobid", "rule_name", "wildcards", "output", "log"),
    "job_finished": ("job_id",),
    "job_error": ("jobid",),
    "progress": ("done", "total"),
}
"""Snakemake's event -> what is kept of it."""


def event_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return a record's event by its name, with its FIELDS; `nothing_to_do` where all is there; None of others."""
    name = "nothing_to_do" if record.msg == NOTHING_TO_BE_DONE_MSG else str(getattr(record, "event", None))
    return {"event": name, **{key: getattr(record, key) for key in FIELDS[name]}} if name in FIELDS else None


def name_of(job: dict[str, Any]) -> str:
    """Return the rule and the wildcards of a `job_info`."""
    return f"{job['rule_name']} {', '.join(f'{key}={value}' for key, value in job['wildcards'].items())}".strip()


class Bar:
    """Shows events on stderr: on a terminal as a bar with the jobs at work, else as a line per finished job."""

    def __init__(self, title: str = "") -> None:
        self.console, self.begun = Console(stderr=True), time.monotonic()
        self.done, self.total, self.at_work = 0, 0, {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        columns += (TimeRemainingColumn(), TextColumn("{task.fields[now]}", table_column=Column(no_wrap=True, ratio=1)))
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task(title, total=None, now="")

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, event: dict[str, Any]) -> None:
        """Show what an event of `event_of` changes."""
        if event["event"] == "run_info":
            self.total = event["stats"]["total"]
            self.bar.start()
        elif event["event"] == "job_info":
            self.at_work[event["jobid"]] = name_of(event)
        elif event["event"] == "job_error":
            self.at_work.pop(event["jobid"], None)
        elif event["event"] == "progress":
            self.total = event["total"]  # which a checkpoint may change
        elif event["event"] == "job_finished":
            self.done += 1
            name = self.at_work.pop(event["job_id"], "")
            if not self.console.is_terminal:
                minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
                self.say(f"{self.done} of {self.total} jobs, {minutes}:{seconds:02}: {name}")
        now = "; ".join(self.at_work.values())
        self.bar.update(self.task, completed=self.done, total=self.total or None, now=now)

    def say(self, text: str) -> None:
        """Print above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    events: Path | None = field(
        default=None,
        metadata={"help": "Append events to this file, as JSON Lines, in place of showing progress", "type": Path},
    )


class LogHandler(LogHandlerBase):
    """Hands each record's event to a bar, or to a file; with the bar warnings and errors are printed as usual."""

    has_filter, has_formatter = True, False
    writes_to_file, needs_rulegraph = False, False  # Snakemake would announce the file at the end

    def __post_init__(self) -> None:
        own, path = self.common_settings, self.settings.events
        self.printed = DefaultFilter(own.quiet, own.debug_dag, own.verbose, own.dryrun, own.printshellcmds)
        self.file = path.open("a", encoding="utf-8") if path else None
        self.bar = None if path else Bar()

    @property
    def writes_to_stream(self) -> bool:
        """Whether this stands in for Snakemake's own messages."""
        return self.settings.events is None

    def emit(self, record: logging.LogRecord) -> None:
        """Show or write a record. Python prints a mistake in here, and the run goes on."""
        try:
            event = event_of(record)
            if self.file and event:
                self.file.write(json.dumps(event) + "\n")
                self.file.flush()
            if self.bar and event:
                self.bar.update(event)
            important = record.levelno >= logging.WARNING or self.common_settings.dryrun
            if self.bar and important and self.printed.filter(record):
                self.bar.say(self.format(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """End the bar, or the file."""
        if self.file:
            self.file.close()
        if self.bar:
            self.bar.bar.stop()
        super().close()
