"""Asking the hub: only where there is internet, which on a cluster is the login node."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.core.errors import InputError


@contextmanager
def fetching(target: Path) -> Iterator[None]:
    """Errors of a job that may not ask the hub say where and how to fetch its target."""
    try:
        yield
    except InputError as error:
        if os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0"):
            raise
        closed = "HF_HUB_OFFLINE closes the hub here, as on the nodes of a cluster"
        remedy = f"fetch on a machine with internet, `snakemake --cores 1 {target}`"
        raise InputError(f"{error}; {closed}: {remedy}") from None
