"""Snakemake's lock on the working directory, cleared when the run that took it was killed.

A killed Snakemake leaves its lock behind and the next run asks for `--unlock` (9.27; a version that tells a stale lock
from a live one needs none of this). Every run therefore also holds a shared flock, which the kernel frees with the
process: whoever gets it exclusively is alone, and any lock there is stale.
"""

import fcntl
import os
from pathlib import Path

from pruning.core import files


def clear_stale(state: Path) -> int | None:
    """Remove Snakemake's locks below `state` (.snakemake) if no run is alive, and mark this process as a live run.

    Returns the descriptor that marks it, open as long as the process; None where the file system knows no flock.
    Raises InputError where not a megabyte can be written: Snakemake itself would end in a traceback."""
    with files.writing(state / "live"):
        state.mkdir(exist_ok=True)
        descriptor = os.open(state / "live", os.O_CREAT | os.O_RDWR, 0o666)
        try:
            (state / "live").write_bytes(bytes(2**20))
        finally:
            os.ftruncate(descriptor, 0)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another run is alive: its locks are real
        else:
            for lock in (state / "locks").glob("*.lock"):
                lock.unlink(missing_ok=True)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def alive(state: Path) -> bool:
    """Whether a run that called clear_stale(state) goes on."""
    try:
        with (state / "live").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
