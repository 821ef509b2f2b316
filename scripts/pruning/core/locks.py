"""One run at a time in a working directory, by a lock that the kernel frees with its process.

Snakemake's own locks do not serve (9.27): a killed run leaves them behind, and the end of any run, of one with nothing
to do as well, deletes those of all others. They are removed before a run looks for them.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.core import files
from pruning.core.errors import InputError


def replace_snakemakes(state: Path) -> None:
    """Remove Snakemake's locks below `state` (.snakemake).

    Raises InputError where not a megabyte can be written: Snakemake itself would end in a traceback."""
    with files.writing(state / "live"):
        state.mkdir(exist_ok=True)
        with (state / "live").open("ab") as file:
            try:
                file.write(bytes(2**20))
                file.flush()
            finally:
                file.truncate(0)
    for lock in (state / "locks").glob("*.lock"):
        lock.unlink(missing_ok=True)


def hold(state: Path) -> int:
    """Take the lock for as long as this process lives, and return its descriptor.

    Raises InputError if another run has it."""
    descriptor = os.open(state / "live", os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"another run is active in {state.absolute().parent}: wait for its end, or stop it") from None
    except OSError:
        pass  # a file system without locks
    return descriptor


@contextmanager
def held(state: Path) -> Iterator[None]:
    """Hold the lock within. Raises InputError if another run has it, or a folder cannot be made for it."""
    with files.writing(state):
        state.mkdir(parents=True, exist_ok=True)
    descriptor = hold(state)
    try:
        yield
    finally:
        os.close(descriptor)


def alive(state: Path) -> bool:
    """Whether a run that called `hold` goes on."""
    try:
        with (state / "live").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
