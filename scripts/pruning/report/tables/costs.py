"""What each stage costs. Files: `benchmarks`, the folder of the benchmark files. Settings: `joint` (costs.read)."""

from typing import Any

import pandas as pd

from pruning.analysis.costs import read, summary
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    table = summary(read(files.one("benchmarks"), settings["joint"]))
    return printing.Page("costs", "Costs: time and memory of every stage", table, [block(table)])


def block(table: pd.DataFrame) -> Block:
    lines = []
    for row in table.itertuples():
        jobs = [f"{row.jobs:,}", f"{row.total_s:,.0f}", f"{100 * row.share:.1f}"]
        one = [f"{row.median_s:.1f}", f"{row.max_s:.1f}", printing.memory(row.peak_memory_mb)]
        lines.append((row.stage, [*jobs, *one]))
    lines.append(("all", [f"{table['jobs'].sum():,}", f"{table['total_s'].sum():,.0f}", "100.0", "", "", ""]))
    columns = ["Jobs", "Seconds, added up", "Share (%)", "Median job (s)", "Longest job (s)", "Peak memory (MiB)"]
    notes = [
        "From the benchmark file of each job's last run, below results/benchmarks: jobs run side by side, so the "
        "seconds add up to more than the wall time, and a busy machine makes them longer. Files of other experiments "
        "in the same folder count as well, but for jobs of several tasks which this experiment does not have."
    ]
    return Block("all", "Time and peak memory by stage", columns, lines, notes, head="Stage")
