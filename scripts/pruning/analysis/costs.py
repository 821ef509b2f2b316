"""What each stage costs, from Snakemake's benchmark files (seconds `s`, peak memory `max_rss` in MiB)."""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from pruning.core.errors import InputError


def read(directory: Path, joint: Collection[str]) -> pd.DataFrame:
    """One row a job. joint: names (names.joined) of the jobs of several tasks that there are; others, which an earlier
    configuration has left, are no rows. Raises InputError if there are no benchmark files."""
    rows = ((path.stem, job(path)) for path in sorted(directory.rglob("*.tsv")))
    kept = [row for stem, row in rows if stem in joint or not row["joint"]]
    if not kept:
        raise InputError(f"{directory}: no benchmark files; run snakemake first")
    return pd.DataFrame(kept).drop(columns="joint")


def job(path: Path) -> dict[str, Any]:
    """`stage` (its rule), `joint` (whether it asked several tasks), `seconds` and `memory_mb` of a job's last run, from
    its benchmark file.

    Snakemake names the rule with `--benchmark-extended`, which profiles/default sets."""
    last = pd.read_csv(path, sep="\t", na_values="-", quoting=csv.QUOTE_NONE).iloc[-1]
    rule = last.get("rule_name", "unknown")
    stage = stage_of(rule)
    return {"stage": stage, "joint": stage != rule, "seconds": last["s"], "memory_mb": last["max_rss"]}


def stage_of(rule: str) -> str:
    """A rule's; those that ask several tasks at once are one stage with the one that asks one."""
    return re.sub(r"_together_\d+$", "", rule)


def summary(jobs: pd.DataFrame) -> pd.DataFrame:
    """One row per stage, the most expensive first: jobs, total, median and longest seconds, peak memory in MiB.

    Jobs too short for Snakemake to sample have no memory figure and do not count in the peak."""
    groups = jobs.groupby("stage")
    table = groups["seconds"].agg(jobs="size", total_s="sum", median_s="median", max_s="max")
    table["peak_memory_mb"] = groups["memory_mb"].max()
    table["share"] = table["total_s"] / table["total_s"].sum()
    return table.sort_values("total_s", ascending=False, kind="stable").reset_index()


def of_methods(folder: Path, calib: str, passes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """What making a model takes, one row a method: seconds of its `calibration`, which methods share, of its `scores`,
    what cuts cost included, and of one `model` (mask, refit, weights; the median of the sparsities), `memory_mb` the
    most of any of these jobs.

    folder: benchmark files of one model. passes: method -> the calibration's results that it is made of, and the
    model's. What is not there any more, or was never needed, counts nothing."""
    rows = []
    for method, needed in passes.items():
        places = [place / name for name in needed for place in (folder / "calibration" / calib, folder)]
        shared = [job(path) for place in places for path in _files(place)]
        once = [job(path) for kind in ("scores", "sensitivity") for path in _files(folder / kind / calib / method)]
        each: dict[str, list[dict]] = {}
        for kind in ("masks", "refit", "compact"):
            for path in _files(folder / kind / calib / method):
                each.setdefault(path.stem, []).append(job(path))
        models = [sum(one["seconds"] for one in jobs) for jobs in each.values()]
        everything = [*shared, *once, *(one for jobs in each.values() for one in jobs)]
        rows.append(
            {
                "method": method,
                "calibration": sum(one["seconds"] for one in shared),
                "scores": sum(one["seconds"] for one in once),
                "model": median(models) if models else 0.0,
                "memory_mb": max((one["memory_mb"] for one in everything), default=float("nan")),
            }
        )
    return pd.DataFrame(rows)


def _files(place: Path) -> list[Path]:
    """A result's benchmark file, or those in its folder."""
    return [path for path in [place.with_name(f"{place.name}.tsv"), *sorted(place.glob("*.tsv"))] if path.is_file()]
