"""The one error that stages turn into a single line for the user, and what else becomes such a line."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make space there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "change its permissions or those of its folder"),
    errno.EFBIG: "raise the limit on the size of a file (`ulimit -f`)",
    errno.EIO: "check the disk",
}
"""Error number of a disk that is full, read-only or broken -> what to do."""


class InputError(ValueError):
    """Bad input that the user can fix: the message names the key, file or value and what to do."""


def disk_trouble(error: BaseException | None, path: Path | None = None) -> str | None:
    """What to tell the user of an error of the operating system, raised by Python or by a library; None of others.

    path: the file that is being written, where the error names none, or only its temporary name."""
    number, name = getattr(error, "errno", None), getattr(error, "filename", None)
    if error is None or isinstance(error, InputError):
        return None
    if not number and (found := re.search(r"\bos error (\d+)\b", str(error))):  # as libraries in Rust write it
        number = int(found[1])
    if number in REMEDIES or (isinstance(error, OSError) and number and name):
        place = name if name and not (path and ".tmp" in str(name)) else path or f"a file below {Path.cwd()}"
        remedy = f"; {REMEDIES[number]}, then run the same command again" if number in REMEDIES else ""
        return f"{place}: {os.strerror(number)}{remedy}"
    return disk_trouble(error.__cause__, path)


@contextmanager
def within(before: str, after: str = "", kind: type[Exception] = InputError) -> Iterator[None]:
    """Errors of a kind become InputErrors that begin, and end, with these words."""
    try:
        yield
    except kind as error:
        raise InputError(f"{before}{error}{after}") from None


@contextmanager
def one_line() -> Iterator[None]:
    """Bad input and trouble with the disk end the process: one line on stderr, no traceback, exit code 1."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if said := disk_trouble(error):
            sys.exit(f"error: {said}")
        raise
