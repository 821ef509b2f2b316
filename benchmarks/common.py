"""What the scripts of this folder share."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

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


def experiment(configfile: Path, changes: Sequence[str] | None) -> dict[str, Any]:
    """Return the configuration with that of a file, and with KEY=VALUE."""
    from snakemake.cli import parse_config
    from snakemake.common.configfile import load_configfile
    from snakemake.utils import update_config

    whole = load_configfile(ROOT / "config/config.yaml")
    for own in (load_configfile(configfile), parse_config(changes or [])):
        update_config(whole, own)
    return whole


def snakemake(*arguments: object, checkout: Path = ROOT) -> subprocess.CompletedProcess:
    """Run the workflow of a checkout. Exits with what it says where it fails."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", checkout / "Snakefile", *arguments]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:])
    return done
