"""What every method leaves of a model: per-item outcomes of its variants, compared item by item, as rows.

A *variant* here is a pruned model: a (method, sparsity) pair, sparsity in whole per cent; DENSE is the unpruned model.
A *column* is a task, or a task after a LoRA recovery (`task@tuning`). *Samples* are one row an item and metric, with
the columns `item`, `item_hash`, `metric`, `value` (0 or 1 for accuracy; a window's summed NLL in nats for perplexity),
`weight` (1; the window's number of predicted tokens) and `cluster` (the template of a generated problem, else null).
`settings` is the dict that report/tables/results.py documents.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import significance
from pruning.core.errors import InputError

Variant = tuple[str, int]
DENSE: Variant = ("dense", 0)

COLUMNS = [
    *("model", "calib", "seed", "method", "sparsity", "achieved_sparsity", "params_removed", "task", "tuning"),
    *("metric", "n", "windows", "clusters", "value", "ci_low", "ci_high", "reference", "delta", "delta_low"),
    *("delta_high", "test", "discordant", "p_value", "p_holm", "design_effect", "p_cluster", "p_cluster_holm"),
    *("published", "mean_tokens", "cut_off", "no_answer", "repetition"),
]
# Only the printed table needs these: chosen by looking at the results, so no p-value goes with them.
MARKS = ["best", "near_best"]
INTEGERS = ["seed", "sparsity", "n", "windows", "clusters", "discordant"]
TEXTS = ["model", "calib", "method", "task", "tuning", "metric", "reference", "test"]

TESTS = {"accuracy": "exact McNemar", "perplexity": "paired t over blocks of windows"}
PUBLISHED = ["model", "method", "presets", "sparsity", "task", "tuning", "metric", "value"]
# References that are not one method: the same variant before recovery, and the same method without its prefix.
UNTUNED, UNCOMPENSATED = "untuned", "uncompensated"
COMPENSATIONS = re.compile("(ridge|sequential|corrective|attention)_")


def table_rows(
    model: str,
    dense: Mapping[str, pd.DataFrame],
    pruned: Mapping[str, Mapping[Variant, Mapping[str, pd.DataFrame]]],
    sizes: Mapping[str, Mapping[Variant, Mapping[str, Any]]],
    published: pd.DataFrame,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """A table of one model: the dense model's rows, then each calibration's, in the order of the settings.

    Args: `dense` maps a column to samples, `pruned` a calibration, variant and column; `sizes` maps a calibration
    and variant to what compaction recorded (`achieved_sparsity` as a fraction, `parameters` before and
    `parameters_kept` after); `published` as `read_published` returns it.
    Returns COLUMNS and MARKS. Accuracies, their intervals and differences are fractions; differences are the
    method's value minus the reference's. p_holm is Holm's adjustment over all comparisons with models of one
    calibration, p_cluster_holm that of the cluster-robust p over all of these that have one.
    Raises InputError if samples lack a metric, hold values of another kind, or cover other items than each other.
    """
    _check_reference(list(pruned), settings)
    rows = {}  # one a task, however many columns it has: the dense model is never tuned
    for column, metric, measure in _measured(dense, "dense", settings):
        row = _row(model, DENSE, column, metric, measure, settings) | {"tuning": None}
        rows.setdefault((row["task"], metric), row)
    outcomes = {}
    for calib, variants in pruned.items():
        outcomes |= _outcomes(model, calib, dense, variants, settings)
    rows = list(rows.values())
    for calib in pruned:
        rows += _calibration_rows(model, calib, outcomes, sizes[calib], settings)
    _adjust(rows)
    _add_published(rows, published)
    frame = pd.DataFrame(rows, columns=COLUMNS + MARKS)  # without `beside`
    numbers = [name for name in COLUMNS if name not in INTEGERS + TEXTS]
    types = dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(numbers, "float64") | dict.fromkeys(MARKS, "bool")
    return frame.astype(types)


def task_of(column: str, settings: Mapping[str, Any]) -> str:
    return settings["tasks"][column].get("task", column)


def tuning_of(column: str, settings: Mapping[str, Any]) -> str | None:
    return settings["tasks"][column].get("tuning")


def _check_reference(calibrations: Sequence[str], settings: Mapping[str, Any]) -> None:
    reference, name = settings["reference"], settings["name"]
    text, _, method = reference.partition("/")
    other = text in calibrations and (not method or method in settings["methods"])
    if reference not in (UNTUNED, UNCOMPENSATED, *settings["methods"]) and not other:
        raise InputError(
            f"{name}.reference: {reference!r} is not among the methods of this table "
            f"({', '.join(settings['methods'])}) or its calibrations ({', '.join(calibrations)}); name one of them"
        )
    for column in settings["tasks"]:
        if reference == UNTUNED and tuning_of(column, settings) and task_of(column, settings) not in settings["tasks"]:
            raise InputError(
                f"{name}.tasks: {column!r} is compared with {task_of(column, settings)!r}: name that as well"
            )


def groups(settings: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What is compared with each other: a sparsity, or (`at`) equal cost -> method -> its sparsity."""
    if settings.get("at"):
        return {"equal cost": settings["at"]}
    return {f"{sparsity}%": dict.fromkeys(settings["methods"], sparsity) for sparsity in settings["sparsities"]}


def pruned_variants(settings: Mapping[str, Any]) -> list[Variant]:
    """Method by method."""
    return [(method, group[method]) for method in settings["methods"] for group in groups(settings).values()]


def reference_of(calib: str, method: str, column: str, settings: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """(calibration, method, column) that a result is compared with, in the same group; None for a reference itself."""
    reference = settings["reference"]
    if reference == UNTUNED:
        return (calib, method, task_of(column, settings)) if tuning_of(column, settings) else None
    if reference == UNCOMPENSATED:
        plain = COMPENSATIONS.sub("", method, count=1) if COMPENSATIONS.match(method) else method
        return (calib, plain, column) if plain != method and plain in settings["methods"] else None
    if reference in settings["methods"]:
        beside = calib, reference
    else:  # the same method, or one, on another text
        text, _, one = reference.partition("/")
        beside = text, one or method
    return None if beside == (calib, method) else (*beside, column)


def across(settings: Mapping[str, Any]) -> bool:
    """Whether results are compared with those of another calibration."""
    return settings["reference"] not in (UNTUNED, UNCOMPENSATED, *settings["methods"])


def same_items(samples: Mapping[str, pd.DataFrame], task: str, stop: int | None = None) -> None:
    """Raise InputError, naming both variants and the task, unless all were scored on the same items.

    Args: `samples` maps a variant's name to its samples of one metric, in the order of the items; items are the same if
    the number, the hash and the weight agree. Everything is compared with the first variant; with `stop` with the first
    of those with most items, of which others may have the first `stop` alone (a task's `stop_early`).
    """
    first, *_ = samples if stop is None else sorted(samples, key=lambda name: -len(samples[name]))
    key = ["item", "item_hash", "weight"]
    for name in samples:
        whole = samples[first].head(stop) if len(samples[name]) == stop else samples[first]
        both = whole[key].merge(samples[name][key], on="item", how="outer", suffixes=("_a", "_b"))
        differs = (both["item_hash_a"] != both["item_hash_b"]) | (both["weight_a"] != both["weight_b"])
        differs |= both[["item_hash_a", "item_hash_b"]].isna().any(axis=1)
        if differs.any():
            example = both[differs].iloc[0]
            raise InputError(
                f"{task}: {first} and {name} were scored on different items ({differs.sum()} of {len(both)} "
                f"differ, e.g. item {example['item']}: {_side(example, 'a')} against {_side(example, 'b')}); "
                "evaluate both on the same data"
            )


def read_published(path: Path) -> pd.DataFrame:
    """A published table (resources/paper/), accuracies as fractions. Raises InputError if missing or no such table."""
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"published: {path}: no such file") from None
    if list(frame.columns) != PUBLISHED:
        raise InputError(f"published: {path}: expected the columns {', '.join(PUBLISHED)}")
    return frame.fillna({"tuning": ""})


def _side(example: pd.Series, side: str) -> str:
    """One variant's version of an item, for an error message."""
    if pd.isna(example[f"item_hash_{side}"]):
        return "absent"
    return f"hash {example[f'item_hash_{side}']}, weight {example[f'weight_{side}']:.0f}"


def measures(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(task, metric, kind) of every column group, in the order of the settings."""
    for task, entry in settings["tasks"].items():
        for metric in entry["metrics"]:
            yield task, metric, entry["kind"]


def outcomes_of(samples: pd.DataFrame, name: str, task: str, metric: str, kind: str) -> pd.DataFrame:
    """One metric's samples in the order of the items, checked to be of the kind that the settings say."""
    chosen = samples[samples["metric"] == metric].sort_values("item", kind="stable", ignore_index=True)
    where = f"{task}, {name}"
    if chosen.empty:
        found = ", ".join(sorted(samples["metric"].unique())) or "none"
        raise InputError(f"{where}: no samples of metric {metric!r}; found {found}: mend tasks.{task}.metrics")
    if chosen["item"].duplicated().any():
        raise InputError(f"{where}: an item occurs twice; delete the samples and evaluate again")
    if kind == "accuracy":
        for row in chosen[~chosen["value"].isin([0, 1])].itertuples():
            raise InputError(
                f"{where}: {metric} of item {row.item} is {row.value}, an accuracy's is 0 or 1; choose another metric "
                f"or mend tasks.{task}.kind"
            )
    else:
        try:
            significance.perplexity(chosen["value"], chosen["weight"])
        except ValueError as error:
            raise InputError(f"{where}: no perplexity: {error}") from None
    return chosen


def _measured(
    samples: Mapping[str, pd.DataFrame], name: str, settings: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for task, metric, kind in measures(settings):
        yield task, metric, measure(outcomes_of(samples[task], name, task, metric, kind), kind, settings)


def measure(outcomes: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's value with its interval: of an accuracy Wilson's, of a perplexity the t over blocks."""
    if kind == "accuracy":
        correct, n = int(outcomes["value"].sum()), len(outcomes)
        value, (low, high) = correct / n, significance.wilson(correct, n, settings["confidence"])
        clusters = clusters_of(outcomes)
        size = {"clusters": None if clusters is None else clusters.nunique()}
    else:
        windows = outcomes["value"], outcomes["weight"]
        n, value = int(outcomes["weight"].sum()), significance.perplexity(*windows)
        low, high = significance.perplexity_interval(*windows, settings["confidence"])
        size = {"windows": len(outcomes)}
    return {"n": n, **size, "value": value, "ci_low": low, "ci_high": high, **_generation(outcomes)}


def common(ours: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The items that both have, of which one may have stopped early."""
    n = min(len(ours), len(other))
    return ours.head(n), other.head(n)


def clusters_of(outcomes: pd.DataFrame) -> pd.Series | None:
    """Clusters of the items, where they have any."""
    return outcomes["cluster"] if "cluster" in outcomes and outcomes["cluster"].notna().all() else None


def _generation(outcomes: pd.DataFrame) -> dict[str, float]:
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


def _compare(
    ours: pd.DataFrame, reference: pd.DataFrame, name: str, kind: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The paired comparison of a variant with its reference, `name`, on the same items: those that both were asked."""
    ours, reference = common(ours, reference)
    comparison = {"reference": name, "test": TESTS[kind]}
    if kind == "perplexity":
        windows = ours["value"], reference["value"], ours["weight"]
        delta, low, high, p = significance.paired_perplexity(*windows, settings["confidence"])
    else:
        outcomes = ours["value"], reference["value"]
        discordant, p = significance.mcnemar_exact(*outcomes)
        bootstrap = (settings[key] for key in ("confidence", "resamples", "seed"))
        delta, low, high = significance.paired_bootstrap(*outcomes, *bootstrap)
        comparison["discordant"] = discordant
        if (clusters := clusters_of(ours)) is not None:
            comparison["design_effect"], comparison["p_cluster"] = significance.cluster_robust(*outcomes, clusters)
    return comparison | {"delta": delta, "delta_low": low, "delta_high": high, "p_value": p}


def _mark_best(
    rows: Sequence[dict[str, Any]], outcomes: Sequence[pd.DataFrame], kind: str, settings: Mapping[str, Any]
) -> None:
    """Mark the best rows of one column and those not significantly worse than it (Holm within the column)."""
    choose = max if kind == "accuracy" else min
    best = choose(row["value"] for row in rows)
    winner = next(samples for row, samples in zip(rows, outcomes, strict=True) if row["value"] == best)
    p_values = [_p_value(samples, winner, kind, settings) for samples in outcomes]
    losers = [None if row["value"] == best else p for row, p in zip(rows, p_values, strict=True)]
    for row, p in zip(rows, significance.holm(losers), strict=True):
        row["best"] = row["value"] == best
        row["near_best"] = not row["best"] and not p <= 1 - settings["confidence"]


def _p_value(ours: pd.DataFrame, other: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> float:
    """Of items in clusters the larger p of the two tests."""
    ours, other = common(ours, other)
    outcomes = ours["value"], other["value"]
    if kind == "perplexity":
        return significance.paired_perplexity(*outcomes, ours["weight"], settings["confidence"])[-1]
    p = significance.mcnemar_exact(*outcomes)[1]
    clusters = clusters_of(ours)
    return p if clusters is None else float(np.maximum(p, significance.cluster_robust(*outcomes, clusters)[1]))


def _outcomes(
    model: str,
    calib: str,
    dense: Mapping[str, pd.DataFrame],
    pruned: Mapping[Variant, Mapping[str, pd.DataFrame]],
    settings: Mapping[str, Any],
) -> dict[tuple[str, Variant, str, str], pd.DataFrame]:
    """(calibration, variant, column, metric) -> samples, all of the dense model's items."""
    variants = pruned_variants(settings)
    names = {variant: f"{calib}/{variant[0]}/{variant[1]}" for variant in variants}
    outcomes = {}
    for column, metric, kind in measures(settings):
        found = {v: outcomes_of(pruned[v][column], names[v], column, metric, kind) for v in variants}
        baseline = outcomes_of(dense[column], "dense", column, metric, kind)
        stop = (settings["tasks"][column].get("stop_early") or {}).get("after")
        same_items({f"{model}/dense": baseline} | {f"{model}/{names[v]}": found[v] for v in variants}, column, stop)
        outcomes |= {(calib, v, column, metric): samples for v, samples in found.items()}
    return outcomes


def _calibration_rows(
    model: str,
    calib: str,
    outcomes: Mapping[tuple[str, Variant, str, str], pd.DataFrame],
    sizes: Mapping[Variant, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Rows of one calibration; `beside`: the calibration that holds what a row is compared with."""
    variants, rows = pruned_variants(settings), {}
    for column, metric, kind in measures(settings):
        for variant in variants:
            method, sparsity = variant
            ours = outcomes[calib, variant, column, metric]
            row = _row(model, variant, column, metric, measure(ours, kind, settings), settings, sizes[variant])
            row |= {"calib": calib, "seed": settings["models"][model]["calibrations"][calib]["seed"]}
            if reference := reference_of(calib, method, column, settings):
                text, other, its_column = reference
                name = other if text == calib else f"{text}/{other}"
                beside = (other, settings["at"][other] if settings.get("at") else sparsity)
                samples = outcomes[text, beside, its_column, metric]
                row |= _compare(ours, samples, UNTUNED if settings["reference"] == UNTUNED else name, kind, settings)
                row["beside"] = text
            rows[variant, column, metric] = row
        for members in groups(settings).values():
            group = [((method, members[method]), column, metric) for method in settings["methods"]]
            _mark_best([rows[key] for key in group], [outcomes[calib, *key] for key in group], kind, settings)
    return [rows[variant, column, metric] for variant in variants for column, metric, _ in measures(settings)]


def _adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's adjustment, over what is compared with models of one calibration."""
    for text in {row["beside"] for row in rows if "beside" in row}:
        compared = [row for row in rows if row.get("beside") == text]
        for name, adjusted in (("p_value", "p_holm"), ("p_cluster", "p_cluster_holm")):
            for row, p in zip(compared, significance.holm([row.get(name) for row in compared]), strict=True):
                row[adjusted] = p


def _row(
    model: str,
    variant: Variant,
    column: str,
    metric: str,
    measure: Mapping[str, Any],
    settings: Mapping[str, Any],
    size: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A row without comparison; without a size it is the dense model's."""
    row = {"model": model, "method": variant[0], "sparsity": variant[1], "metric": metric, **measure}
    row |= {"task": task_of(column, settings), "tuning": tuning_of(column, settings)}
    row |= {"achieved_sparsity": 0.0, "params_removed": 0.0, "best": False, "near_best": False}
    if size is not None:
        row["achieved_sparsity"] = size["achieved_sparsity"]
        row["params_removed"] = 1 - size["parameters_kept"] / size["parameters"]
    return row


def _add_published(rows: Sequence[dict[str, Any]], published: pd.DataFrame) -> None:
    values = {
        (entry.model, preset, round(100 * entry.sparsity), entry.task, entry.tuning, entry.metric): entry.value
        for entry in published.itertuples()
        for preset in entry.presets.split(";")
    }
    for row in rows:
        key = tuple(row[name] for name in ("model", "method", "sparsity", "task"))
        row["published"] = values.get((*key, row["tuning"] or "", row["metric"]))
