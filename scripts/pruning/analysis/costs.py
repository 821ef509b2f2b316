"""What each stage costs, from Snakemake's benchmark files (seconds `s`, peak memory `max_rss` in MiB)."""

from pathlib import Path

import pandas as pd

from pruning.core.errors import InputError


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
