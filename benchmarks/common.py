"""What the scripts of this folder share."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Return how long it takes, the median of so many times."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return median(found)


def resident(key: str = "VmRSS") -> int:
    """Return this process's bytes of memory, now or, VmHWM, at most since `peak_anew`; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))


def peak_anew() -> None:
    Path("/proc/self/clear_refs").write_text("5")
