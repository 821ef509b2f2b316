"""Why a job failed, in its own words."""

import os
from collections.abc import Collection
from pathlib import Path

LAST = 20  # lines, of a job that ended in no error of ours


def words(logs: Collection[Path]) -> str:
    """From `error:` on, as stages end on bad input; otherwise the end of what was written."""
    found = [log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines() for log in logs if log.is_file()]
    lines = [line for log in found for line in log]
    full = any(os.statvfs(log.parent).f_bavail == 0 for log in logs if log.parent.is_dir())
    nothing = "it wrote nothing" + ("; the disk is full: make space there, then run the same command again" * full)
    start = next((number for number, line in enumerate(lines) if line.startswith("error: ")), -LAST)
    return "\n".join(lines[start:]) or nothing
