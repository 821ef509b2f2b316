"""Where the wall time of a finished run goes: start-up, loading, computing, by stage.

Reads the phases that the stages log and Snakemake's benchmark files; jobs that ran in parallel are added up.

    python benchmarks/overhead.py            after `make table1` or `make paper`
"""

import re
from collections import defaultdict
from pathlib import Path

import common  # noqa: F401 (finds the library)
import pandas as pd

from pruning.analysis import costs

PHASES = ("start-up", "load", "compute")


def main() -> None:
    rows: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(("jobs", "wall", *PHASES), 0.0))
    for log in Path("results/logs").rglob("*.log"):
        phases = dict(re.findall(r"^phase (\S+) ([\d.]+) s$", log.read_text(errors="replace"), re.M))
        place = log.relative_to("results/logs")
        benchmark = Path("results/benchmarks", place).with_suffix(".tsv")
        if not phases or not benchmark.exists():
            continue
        job = costs.job(benchmark)
        row = rows[job["stage"]]
        row["jobs"] += 1
        row["wall"] += job["seconds"]
        for phase in PHASES:
            row[phase] += float(phases.get(phase, 0))
    frame = pd.DataFrame(rows).T.sort_values("wall", ascending=False)
    frame["interpreter"] = frame["wall"] - frame[list(PHASES)].sum(axis=1)
    frame.loc["all"] = frame.sum()
    frame["jobs"] = frame["jobs"].astype(int)
    print(frame[["jobs", "wall", "interpreter", *PHASES]].to_markdown(floatfmt=".1f"))
    print("\nSeconds, added up over jobs; interpreter: Python's start, command line and exit.")


if __name__ == "__main__":
    main()
