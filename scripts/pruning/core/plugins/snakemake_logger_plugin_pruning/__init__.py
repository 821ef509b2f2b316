"""A logger plug-in of Snakemake: it shows a run's progress, or writes its events for another program.

    PYTHONPATH=scripts/pruning/core/plugins snakemake --logger pruning …  a bar; without a terminal a line per job
    … --logger-pruning-events FILE      Snakemake's own messages, and its events, appended to FILE as JSON Lines

Snakemake finds a plug-in by its name, among the packages on Python's path and not among those installed as editable. It
loads it before the workflow, so that this file imports nothing of the library.
"""

import json
import logging
import os
import select
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import DefaultFilter
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

KEPT = ("stats", "jobid", "job_id", "rule_name", "wildcards", "output", "log", "done", "total")
EVENTS = ("workflow_started", "run_info", "job_info", "job_finished", "job_error", "progress")


def event_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """Return a record's event (EVENTS, or `nothing_to_do`) with its fields (KEPT); None of other records."""
    name = "nothing_to_do" if record.msg == NOTHING_TO_BE_DONE_MSG else str(getattr(record, "event", None))
    fields = {key: value for key, value in vars(record).items() if key in KEPT}
    return {"event": name, **fields} if name in (*EVENTS, "nothing_to_do") else None


def name_of(job: dict[str, Any]) -> str:
    """Return the rule and the wildcards of a `job_info`."""
    return f"{job['rule_name']} {', '.join(f'{key}={value}' for key, value in job['wildcards'].items())}".strip()


def end_without_reader(events: TextIO) -> None:
    """Wait until nobody reads events any more, and end this run with its jobs. Nobody needs to read a file on disk."""
    waiting = select.poll()
    waiting.register(events, 0)  # errors are always told
    waiting.poll()
    os.killpg(os.getpgrp(), signal.SIGINT)


class Bar(Progress):
    """Shows events on stderr: on a terminal as a bar with the jobs at work, else as a line per finished job."""

    def __init__(self, title: str = "") -> None:
        now = TextColumn("{task.fields[now]}", table_column=Column(no_wrap=True, ratio=1))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        super().__init__(*columns, TimeRemainingColumn(), now, console=console, disable=not console.is_terminal)
        self.begun, self.done, self.total, self.at_work = time.monotonic(), 0, None, {}
        self.row = self.add_task(title, total=None, now="")

    def show(self, event: dict[str, Any]) -> None:
        """Show what an event of `event_of` changes."""
        name = self.at_work.pop(event.get("job_id", event.get("jobid")), "")
        if event["event"] == "workflow_started":
            self.start()
        elif event["event"] in ("run_info", "nothing_to_do"):
            self.total = event.get("stats", {"total": 0})["total"]
        elif event["event"] == "job_info":
            self.at_work[event["jobid"]] = name_of(event)
        elif event["event"] == "job_finished":
            self.done += 1
            minutes, seconds = divmod(int(time.monotonic() - self.begun), 60)
            if self.disable:
                self.say(f"{self.done} of {self.total} jobs, {minutes}:{seconds:02}: {name}")
        elif event["event"] == "progress":
            self.total = event["total"]  # which a checkpoint may change
        self.update(self.row, completed=self.done, total=self.total, now="; ".join(self.at_work.values()))

    def say(self, text: str) -> None:
        """Print above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    events: Path | None = field(
        default=None, metadata={"help": "Append events to this file, in place of showing progress", "type": Path}
    )


class LogHandler(LogHandlerBase):
    """Hands each record's event to a bar, or to a file; with the bar warnings and errors are printed as usual."""

    has_filter, has_formatter, needs_rulegraph = True, False, False
    writes_to_file = False  # Snakemake would announce the file at the end
    writes_to_stream = property(lambda self: self.settings.events is None)  # in place of Snakemake's own messages

    def __post_init__(self) -> None:
        own, path = self.common_settings, self.settings.events
        self.printed = DefaultFilter(own.quiet, own.debug_dag, own.verbose, own.dryrun, own.printshellcmds)
        self.file = path.open("a", encoding="utf-8", buffering=1) if path else None
        self.bar = None if path else Bar()
        if self.file:
            threading.Thread(target=end_without_reader, args=(self.file,), daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Show or write a record. Python prints a mistake in here, and the run goes on."""
        try:
            if event := event_of(record):
                self.bar.show(event) if self.bar else self.file.write(json.dumps(event) + "\n")
            important = record.levelno >= logging.WARNING or self.common_settings.dryrun
            if self.bar and important and self.printed.filter(record):
                self.bar.say(self.format(record))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """End the bar, or the file."""
        self.bar.stop() if self.bar else self.file.close()
        super().close()
