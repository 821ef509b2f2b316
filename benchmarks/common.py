"""What the scripts of this folder share."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]


def seconds(work: Callable[[], object], times: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long it takes, the median of so many times."""
    found = []
    for _ in range(times):
        start = clock()
        work()
        found.append(clock() - start)
    return median(found)


def taken(work: Callable[[], object], device: str = "cpu", times: int = 1) -> tuple[float, float]:
    """Return how long it takes, as `seconds` does, and the GB that it takes at most beside what was there before: of a
    GPU's memory, or of this process's (Linux)."""
    import torch
    from torch.utils.benchmark import timer  # waits for what was queued onto a GPU

    def resident(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith(key)))

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    took = seconds(work, times, timer)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")
    return took, (peak - before) / 1e9


def snakemake(*arguments: object) -> subprocess.CompletedProcess:
    """Run the workflow. Exits with what it says where it fails."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", *arguments]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:])
    return done
