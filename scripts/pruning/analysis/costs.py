"""What each stage costs, from Snakemake's benchmark files (seconds `s`, peak memory `max_rss` in MiB)."""

import csv
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pruning.core.errors import InputError


def read(directory: Path, joint: Collection[str] | None) -> pd.DataFrame:
    """One row per job. joint: names (names.joined) of the jobs of several tasks that there are; others, which an
    earlier configuration has left, are no rows; None: all are. Raises InputError if there are no benchmark files."""
    rows = ((path.stem, job(path)) for path in sorted(directory.rglob("*.tsv")))
    kept = [row for stem, row in rows if joint is None or stem in joint or not row["joint"]]
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


def of_methods(
    folder: Path, calib: str, passes: Mapping[str, Sequence[str]], cut_as: Mapping[str, str]
) -> pd.DataFrame:
    """What making a model takes, one row per method: seconds of its `calibration`, which methods share, of its
    `scores`, what cuts cost included, and of one `model` (mask, refit, weights; the median of the sparsities),
    `memory_mb` the most of any of these jobs.

    folder: benchmark files of one model. passes: method -> the calibration's results that it is made of, and the
    model's. cut_as: method -> the one whose scores and masks it shares, where that is another. What is not there any
    more, or was never needed, counts nothing."""
    rows = []
    for method, needed in passes.items():
        shared = _jobs(place / name for name in needed for place in (folder / "calibration" / calib, folder))
        cut = cut_as.get(method, method)
        once = _jobs(folder / kind / calib / cut for kind in ("scores", "sensitivity"))
        each = _jobs(
            folder / kind / calib / own for kind, own in {"masks": cut, "refit": cut, "compact": method}.items()
        )
        row = {"method": method, "calibration": shared["seconds"].sum(), "scores": once["seconds"].sum()}
        row["model"] = each.groupby("name")["seconds"].sum().median() if len(each) else 0.0
        rows.append(row | {"memory_mb": pd.concat([shared, once, each])["memory_mb"].astype(float).max()})
    return pd.DataFrame(rows)


def _jobs(places: Iterable[Path]) -> pd.DataFrame:
    """Jobs of results, each a benchmark file of its name or those in its folder; `name`: of the file."""
    files = [file for place in places for file in (place.with_name(f"{place.name}.tsv"), *sorted(place.glob("*.tsv")))]
    found = [{"name": file.stem, **job(file)} for file in files if file.is_file()]
    return pd.DataFrame(found, columns=["name", "seconds", "memory_mb"])
