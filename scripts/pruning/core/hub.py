"""Asking the hub: only where there is internet, which on a cluster is the login node."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.core.errors import InputError


def close() -> None:
    """Let nothing of this process, and of what it starts, ask the hub. (Not in the rules: `snakemake --lint` takes an
    environment variable there for one that a user must set.)"""
    os.environ["HF_HUB_OFFLINE"] = "1"


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
