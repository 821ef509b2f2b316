"""What each stage costs, from Snakemake's benchmark files (seconds `s`, peak memory `max_rss` in MiB)."""

from pathlib import Path

import pandas as pd

from pruning.core.errors import InputError
from pruning.report.printing import Block, Cell


def stage_of(path: Path) -> str:
    """The stage of a benchmark file, by its place below results/benchmarks (which mirrors results/)."""
    first, *rest = path.with_suffix("").parts
    if first in ("data", "figures", "pages", "leakage", "latency") and rest:
        return {"data": "fetch_dataset", "pages": "page", "figures": "figure"}.get(first, first)
    if not rest:
        return "table" if first not in ("collapse", "widths", "reasoner") else first
    kind, *inner = rest
    if kind == "calibration":
        own = {"merge": "merge_calibration", **{name: name for name in ("second_moments", "parameter_gradients")}}
        return own.get(inner[-1], "calibrate")
    if kind == "analysis":
        return inner[0]
    names = {"base": "fetch_model", "scores": "score", "masks": "mask", "eval": "evaluate", "recovered": "recover"}
    return names.get(kind, kind)


def read(directory: Path) -> pd.DataFrame:
    """One row a job: stage, seconds, memory_mb. Raises InputError if there are no benchmark files."""
    rows = []
    for path in sorted(directory.rglob("*.tsv")):
        job = pd.read_csv(path, sep="\t", na_values="-").iloc[-1]
        rows.append({"stage": stage_of(path.relative_to(directory)), "seconds": job["s"], "memory_mb": job["max_rss"]})
    if not rows:
        raise InputError(f"{directory}: no benchmark files; run snakemake first")
    return pd.DataFrame(rows)


def summary(jobs: pd.DataFrame) -> pd.DataFrame:
    """One row a stage, the dearest first: jobs, total, median and longest seconds, peak memory in MiB.

    Jobs too short for Snakemake to sample have no memory figure and do not count in the peak."""
    groups = jobs.groupby("stage")
    table = groups["seconds"].agg(jobs="size", total_s="sum", median_s="median", max_s="max")
    table["peak_memory_mb"] = groups["memory_mb"].max()
    table["share"] = table["total_s"] / table["total_s"].sum()
    return table.sort_values("total_s", ascending=False, kind="stable").reset_index()


def block(table: pd.DataFrame) -> Block:
    lines = []
    for row in table.itertuples():
        memory = "–" if pd.isna(row.peak_memory_mb) else f"{row.peak_memory_mb:,.0f}"
        texts = [
            f"{row.jobs:,}",
            f"{row.total_s:,.0f}",
            f"{100 * row.share:.1f}",
            f"{row.median_s:.1f}",
            f"{row.max_s:.1f}",
        ]
        lines.append((row.stage, [Cell(text, "") for text in [*texts, memory]]))
    total = [f"{table['jobs'].sum():,}", f"{table['total_s'].sum():,.0f}", "100.0", "", "", ""]
    lines.append(("all", [Cell(text, "") for text in total]))
    columns = ["Jobs", "Seconds, added up", "Share (%)", "Median job (s)", "Longest job (s)", "Peak memory (MiB)"]
    notes = [
        "From the benchmark file of each job's last run, below results/benchmarks: jobs run side by side, so the "
        "seconds add up to more than the wall time, and a busy machine makes them longer. Files of other experiments "
        "in the same folder count as well. evaluate: accuracies and perplexities.",
    ]
    return Block("all", "Time and peak memory by stage", [""], columns, lines, notes, head="Stage")
