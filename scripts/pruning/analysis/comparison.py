"""What every method leaves of a model: per-item outcomes of its variants, compared item by item, as rows.

*Samples* are one row per item and metric, with the columns `item`, `item_hash`, `metric`, `value` (0 or 1 for accuracy;
a window's summed NLL in nats for perplexity, its summed KL divergence for kl, in bits for bits_per_byte), `weight` (1;
the window's number of predicted tokens, or of bytes) and `cluster` (the template of a generated problem, else null).
`settings` is the dict that report/tables/results.py documents.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import names, significance
from pruning.core.errors import InputError
from pruning.core.names import DENSE, Column, Variant

COLUMNS = [
    *("model", "calib", "seed", "method", "sparsity", "achieved_sparsity", "params_removed", "task", "tuning"),
    *("metric", "n", "windows", "clusters", "value", "ci_low", "ci_high", "reference", "delta", "delta_low"),
    *("delta_high", "test", "discordant", "p_value", "p_holm", "design_effect", "p_cluster", "p_cluster_holm"),
    *("published", "mean_tokens", "cut_off", "no_answer", "repetition"),
]
# Only the printed table needs these. The marks were chosen by looking at the results, so no p-value goes with them;
# `group` is what a variant is compared within: a sparsity, or equal cost; `compared` and `by_cluster` are the
# numbers of tests that Holm's adjustment is over.
PRINTED = ["best", "near_best", "group", "column", "kind", "compared", "by_cluster"]
INTEGERS = ["seed", "sparsity", "n", "windows", "clusters", "discordant", "compared", "by_cluster"]
TEXTS = ["model", "calib", "method", "task", "tuning", "metric", "reference", "test", "group", "column", "kind"]

WINDOWED = ("perplexity", "divergence", "bits")
TESTS = {"accuracy": "exact McNemar", **dict.fromkeys(WINDOWED, "paired t over blocks of windows")}
PUBLISHED = ["model", "method", "presets", "sparsity", "task", "tuning", "metric", "value"]
# References that are not one method: the same variant before recovery, the same method without its prefix, and the
# dense model.
UNTUNED, UNCOMPENSATED, WITH_DENSE = "untuned", "uncompensated", "dense"
WHOLE = {"achieved_sparsity": 0.0, "parameters": 1, "parameters_kept": 1}
COMPENSATION = re.compile("^(ridge|sequential|corrective|attention|block)_")


def table_rows(
    model: str,
    samples: Callable[[Variant, str], pd.DataFrame],
    size: Callable[[Variant], Mapping[str, Any]],
    published: pd.DataFrame,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """A table of one model: the dense model's rows, then each calibration's, in the order of the settings.

    Args: `samples` reads a variant's outcomes on a task, `size` what compaction recorded of a pruned variant
    (`achieved_sparsity` as a fraction, `parameters` before and `parameters_kept` after); `published`: PUBLISHED.
    Returns COLUMNS and PRINTED. Sparsities are whole per cent; accuracies, their intervals and differences fractions;
    differences are the method's value minus the reference's. p_holm is Holm's adjustment over all comparisons with
    models of one calibration, p_cluster_holm that of the cluster-robust p over all of these that have one.
    Raises InputError if samples lack a metric, hold values of another kind, or cover other items than each other.
    """
    calibrations = settings["models"][model]["calibrations"]
    measures = [
        (Column(entry["task"], entry["tuning"]), kind_of(metric, entry["kind"]), metric)
        for entry in settings["tasks"].values()
        for metric in entry["metrics"]
    ]
    variants, outcomes, rows = _variants(calibrations, settings), {}, {}
    for column, kind, metric in measures:
        own = [_of(column, variant) for variant, *_ in variants]
        found = {v: outcomes_of(samples(v, column.task), str(v), str(column), metric, kind) for v in own}
        stop = (settings["tasks"][str(column)].get("stop_early") or {}).get("after")
        same_items({f"{model}/{variant}": frame for variant, frame in found.items()}, str(column), stop)
        outcomes |= {(variant, column.task, metric): frame for variant, frame in found.items()}
    for variant, group, members in variants:
        recorded = size(variant) if group else WHOLE
        for column, kind, metric in measures:
            own = _of(column, variant)
            key = (own, column.task, metric)  # of the dense model the same in all columns of a task: one row
            row = {"model": model, "calib": own.calib, "method": own.method, "sparsity": own.sparsity, "group": group}
            row |= {"task": column.task, "tuning": own.tuning, "metric": metric, "column": str(column), "kind": kind}
            row |= {"seed": calibrations[own.calib]["seed"] if group else None, "samples": outcomes[key]}
            row["achieved_sparsity"] = recorded["achieved_sparsity"]
            row["params_removed"] = 1 - recorded["parameters_kept"] / recorded["parameters"]
            row |= measure(outcomes[key], kind, settings) | generation(outcomes[key])
            reference = _reference_of(own, members, settings)
            if reference and (kind, reference[1]) != ("divergence", DENSE):  # whose own is 0
                name, other = reference
                row |= {"reference": name, "test": TESTS[kind], "beside": other.calib or own.calib}
                row |= compare(outcomes[key], outcomes[other, column.task, metric], kind, settings)
            rows[key] = row
    _mark_best(list(rows.values()), settings["confidence"])
    frame = pd.DataFrame(rows.values(), columns=[*COLUMNS, *PRINTED, "beside"])  # without `samples`
    families = frame.groupby("beside")  # what is compared with models of one calibration
    for p, adjusted, number in (("p_value", "p_holm", "compared"), ("p_cluster", "p_cluster_holm", "by_cluster")):
        frame[adjusted] = families[p].transform(lambda values: significance.holm(values.tolist()))
        frame[number] = families[p].transform("count")
    frame["published"] = _published(frame, published)
    numbers = [name for name in COLUMNS if name not in INTEGERS + TEXTS]
    types = dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(numbers, "float64") | dict.fromkeys(PRINTED[:2], "bool")
    return frame[COLUMNS + PRINTED].astype(types)


def _variants(
    calibrations: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[tuple[Variant, str | None, dict[str, int]]]:
    """The dense model, then pruned variants, method by method, each with what it is compared within: the group's name,
    and method -> sparsity of its members."""
    groups = (
        {"equal cost": settings["at"]}
        if settings.get("at")
        else {f"{sparsity}%": dict.fromkeys(settings["methods"], sparsity) for sparsity in settings["sparsities"]}
    )
    return [(DENSE, None, {})] + [
        (Variant(calib, method, members[method]), group, members)
        for calib in calibrations
        for method in settings["methods"]
        for group, members in groups.items()
    ]


def _of(column: Column, variant: Variant) -> Variant:
    """The variant whose outcomes a column shows; the dense model is never tuned."""
    return variant if variant == DENSE else column.of(variant)


def _reference_of(
    variant: Variant, members: Mapping[str, int], settings: Mapping[str, Any]
) -> tuple[str, Variant] | None:
    """What a variant is compared with, and how the CSV names it; None for a reference itself.

    `members`: method -> sparsity of what it is compared within."""
    reference, methods = settings["reference"], settings["methods"]
    if variant == DENSE:
        return None
    if reference == WITH_DENSE:
        return WITH_DENSE, DENSE
    if reference == UNTUNED:
        return (UNTUNED, replace(variant, tuning=None)) if variant.tuning else None
    calib, method = variant.calib, variant.method
    if reference == UNCOMPENSATED:
        method = plain if (plain := COMPENSATION.sub("", method)) in methods else method
    elif reference in methods:
        method = reference
    else:  # the same method, or one, on another text
        calib, _, one = reference.partition("/")
        method = one or method
    if (calib, method) == (variant.calib, variant.method):
        return None
    name = method if calib == variant.calib else f"{calib}/{method}"
    return name, replace(variant, calib=calib, method=method, sparsity=members[method])


def same_items(samples: Mapping[str, pd.DataFrame], task: str, stop: int | None = None) -> None:
    """Raise InputError, naming both variants and the task, unless all were scored on the same items.

    Args: `samples` maps a variant's name to its samples of one metric, in the order of the items; items are the same if
    the number, the hash and the weight agree. Everything is compared with the first variant; with `stop` with the first
    of those with most items, of which others may have the first `stop` alone (a task's `stop_early`).
    """
    first, *_ = samples if stop is None else sorted(samples, key=lambda name: -len(samples[name]))
    key = ["item", "item_hash", "weight"]
    for name in samples:
        whole = (samples[first].head(stop) if len(samples[name]) == stop else samples[first])[key]
        if whole.equals(samples[name][key]):
            continue
        both = whole.merge(samples[name][key], on="item", how="outer", suffixes=("_a", "_b"))
        differs = (both["item_hash_a"] != both["item_hash_b"]) | (both["weight_a"] != both["weight_b"])
        differs |= both[["item_hash_a", "item_hash_b"]].isna().any(axis=1)
        if differs.any():
            example = both[differs].iloc[0]
            raise InputError(
                f"{task}: {first} and {name} were scored on different items ({differs.sum()} of {len(both)} "
                f"differ, e.g. item {example['item']}: {_side(example, 'a')} against {_side(example, 'b')}); "
                "evaluate both on the same data"
            )


def _side(example: pd.Series, side: str) -> str:
    """One variant's version of an item, for an error message."""
    if pd.isna(example[f"item_hash_{side}"]):
        return "absent"
    return f"hash {example[f'item_hash_{side}']}, weight {example[f'weight_{side}']:.0f}"


def outcomes_of(samples: pd.DataFrame, name: str, task: str, metric: str, kind: str) -> pd.DataFrame:
    """One metric's samples in the order of the items, checked to be of the kind that the settings say; without what
    was asked and answered, which is most of their bytes."""
    chosen = samples[samples["metric"] == metric].drop(columns=["prompt", "response"], errors="ignore")
    chosen = chosen.sort_values("item", kind="stable", ignore_index=True)
    where, entry = f"{task}, {name}", f"tasks.{Column.parse(task).task}"
    if chosen.empty:
        found = ", ".join(sorted(samples["metric"].unique())) or "none"
        raise InputError(f"{where}: no samples of metric {metric!r}; found {found}: fix {entry}.metrics")
    if kind == "accuracy":
        for row in chosen[~chosen["value"].isin([0, 1])].itertuples():
            raise InputError(
                f"{where}: {metric} of item {row.item} is {row.value}, an accuracy's is 0 or 1; choose another metric "
                f"or fix {entry}.kind"
            )
    else:
        try:
            significance.windows_of(chosen["value"], chosen["weight"])
        except ValueError as error:
            raise InputError(f"{where}: no {kind}: {error}") from None
    return chosen


def kind_of(metric: str, kind: str) -> str:
    """What a metric of a task of this kind is: beside perplexities stand divergences."""
    return "divergence" if metric == "kl" else kind


def measure(outcomes: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's value with its interval: of an accuracy Wilson's, of the others the t over blocks."""
    if kind == "accuracy":
        correct, n = int(outcomes["value"].sum()), len(outcomes)
        value, (low, high) = correct / n, significance.wilson(correct, n, settings["confidence"])
        clusters = clusters_of(outcomes)
        size = {"clusters": None if clusters is None else clusters.nunique()}
    else:
        of = significance.perplexity if kind == "perplexity" else significance.divergence
        value, low, high = of(outcomes["value"], outcomes["weight"], settings["confidence"])
        n, size = int(outcomes["weight"].sum()), {"windows": len(outcomes)}
    return {"n": n, **size, "value": value, "ci_low": low, "ci_high": high}


def clusters_of(outcomes: pd.DataFrame) -> pd.Series | None:
    """Clusters of the items, where they have any."""
    return outcomes["cluster"] if "cluster" in outcomes and outcomes["cluster"].notna().all() else None


def generation(outcomes: pd.DataFrame) -> dict[str, float]:
    """How a model generates, beside how often it is right: degeneration shows here first. Empty for scored options.

    mean_tokens, and shares of items: cut_off (by the token limit, or in a loop), no_answer (lm-eval's filter found
    none); repetition is the mean share of repeated 4-grams."""
    if outcomes["generated_tokens"].isna().all():
        return {}
    generated = {
        "mean_tokens": float(outcomes["generated_tokens"].mean()),
        "cut_off": float((outcomes["finish_reason"] != "stop").mean()),
        "no_answer": float((outcomes["prediction"] == "[invalid]").mean()),
    }
    return generated | ({"repetition": float(outcomes["repetition"].mean())} if "repetition" in outcomes else {})


def tested(ours: pd.DataFrame, other: pd.DataFrame, kind: str, confidence: float) -> dict[str, Any]:
    """The paired tests of two variants on the items that both have, of which one may have stopped early: `delta`,
    `p_value`, and of accuracies `discordant` and, where items share templates, `design_effect` and `p_cluster`."""
    n = min(len(ours), len(other))
    ours, other = ours.head(n), other.head(n)
    values = ours["value"], other["value"]
    if kind != "accuracy":
        paired = significance.paired_perplexity if kind == "perplexity" else significance.paired_means
        found = paired(*values, ours["weight"], confidence)
        return dict(zip(("delta", "delta_low", "delta_high", "p_value"), found, strict=True))
    discordant, p = significance.mcnemar_exact(*values)
    found = {"delta": float((values[0] - values[1]).mean()), "discordant": discordant, "p_value": p}
    if (clusters := clusters_of(ours)) is not None:
        found["design_effect"], found["p_cluster"] = significance.cluster_robust(*values, clusters)
    return found


def compare(ours: pd.DataFrame, other: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`tested`, and the interval of the difference: `delta_low` and `delta_high`."""
    found = tested(ours, other, kind, settings["confidence"])
    if kind != "accuracy":
        return found
    n = min(len(ours), len(other))
    bootstrap = (settings[key] for key in ("confidence", "resamples", "seed"))
    interval = significance.paired_bootstrap(ours["value"].head(n), other["value"].head(n), *bootstrap)
    return found | dict(zip(("delta", "delta_low", "delta_high"), interval, strict=True))


def deciding_p(row: Mapping[str, Any], of: Sequence[str] = ("p_holm", "p_cluster_holm")) -> float:
    """The p of a comparison that decides: the larger of the two where items share templates. NaN is no evidence."""
    p, by_cluster = (row.get(name, np.nan) for name in of)
    return p if pd.isna(row.get("clusters")) else float(np.maximum(p, by_cluster))


def _mark_best(rows: Sequence[dict[str, Any]], confidence: float) -> None:
    """Mark the best rows of each column of a group, and those not significantly worse (Holm within the column)."""
    columns = defaultdict(list)
    for row in rows:
        row |= {"best": False, "near_best": False}
        if row["group"]:
            columns[row["calib"], row["group"], row["column"], row["metric"]].append(row)
    for column in columns.values():
        kind = column[0]["kind"]
        best = (max if kind == "accuracy" else min)(row["value"] for row in column)
        winner = next(row["samples"] for row in column if row["value"] == best)
        p_values = [None] * len(column)
        for i, row in enumerate(column):
            if row["value"] != best:
                found = tested(row["samples"], winner, kind, confidence)
                p_values[i] = deciding_p(row | found, ("p_value", "p_cluster"))
        for row, p in zip(column, significance.holm(p_values), strict=True):
            row["best"] = row["value"] == best
            row["near_best"] = not row["best"] and not p <= 1 - confidence


def _published(frame: pd.DataFrame, published: pd.DataFrame) -> list[float | None]:
    """The published value of each row, where there is one: of any preset that may stand for a published method."""
    values = {
        (entry.model, preset, names.percent(entry.sparsity), entry.task, entry.tuning, entry.metric): entry.value
        for entry in published.itertuples()
        for preset in entry.presets.split(";")
    }
    keys = frame[["model", "method", "sparsity", "task", "tuning", "metric"]].fillna({"tuning": ""})
    return [values.get(key) for key in keys.itertuples(index=False, name=None)]
