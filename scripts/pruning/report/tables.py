"""Tables of results: what every method leaves of a model, from per-item outcomes to rows and to the paper's layout.

`table_rows` compares variants item by item and returns one row a (variant, column, metric); `layout` arranges
rows as the paper does, one block a (model, calibration), for printing.py. Nothing here reads or writes results.
A *variant* is a pruned model: a (method, sparsity) pair, sparsity in whole per cent; DENSE is the unpruned model. A
*column* is a task, or a task after a LoRA recovery (`task@tuning`). *Samples* are one row an item and metric, with
the columns `item`, `item_hash`, `metric`, `value` (0 or 1 for accuracy; a window's summed NLL in nats for perplexity),
`weight` (1; the window's number of predicted tokens) and `cluster` (the template of a generated problem, else null).
`settings` is the dict that scripts/table.py documents.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import significance
from pruning.core.errors import InputError
from pruning.core.limits import LEAST_WINDOWS
from pruning.report.printing import Block, Cell, percent, plain

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
# References that are not one method: the same variant before recovery, and the same method without `ridge_`.
UNTUNED, UNCOMPENSATED = "untuned", "uncompensated"

# From samples to rows -----------------------------------------------------------------------------------------------


def table_rows(
    model: str,
    dense: Mapping[str, pd.DataFrame],
    pruned: Mapping[str, Mapping[Variant, Mapping[str, pd.DataFrame]]],
    manifests: Mapping[str, Mapping[Variant, Mapping[str, Any]]],
    published: pd.DataFrame,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """A table of one model: the dense model's rows, then each calibration's, in the order of the settings.

    Args: `dense` maps a column to samples, `pruned` a calibration, variant and column; `manifests` maps a calibration
    and variant to what compaction recorded (`achieved_sparsity` as a fraction, `parameters` before and
    `parameters_kept` after); `published` as `read_published` returns it.
    Returns COLUMNS and MARKS. Accuracies, their intervals and differences are fractions; differences are the
    method's value minus the reference's. p_holm is Holm's adjustment over all comparisons of a calibration,
    p_cluster_holm that of the cluster-robust p over all that have one.
    Raises InputError if samples lack a metric, hold values of another kind, or cover other items than each other.
    """
    _check_reference(settings)
    rows = {}  # one a task, however many columns it has: the dense model is never tuned
    for column, metric, measure in _measured(dense, "dense", settings):
        row = _row(model, DENSE, column, metric, measure, settings) | {"tuning": None}
        rows.setdefault((row["task"], metric), row)
    rows = list(rows.values())
    for calib, variants in pruned.items():
        rows += _calibration_rows(model, calib, dense, variants, manifests[calib], settings)
    _add_published(rows, published)
    frame = pd.DataFrame(rows, columns=COLUMNS + MARKS)
    numbers = [name for name in COLUMNS if name not in INTEGERS + TEXTS]
    types = dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(numbers, "float64") | dict.fromkeys(MARKS, "bool")
    return frame.astype(types)


def _task(column: str, settings: Mapping[str, Any]) -> str:
    return settings["tasks"][column].get("task", column)


def _tuning(column: str, settings: Mapping[str, Any]) -> str | None:
    return settings["tasks"][column].get("tuning")


def _check_reference(settings: Mapping[str, Any]) -> None:
    reference, name = settings["reference"], settings["name"]
    if reference not in (UNTUNED, UNCOMPENSATED, *settings["methods"]):
        raise InputError(
            f"{name}.reference: {reference!r} is not among the methods of this table "
            f"({', '.join(settings['methods'])}); name one of them"
        )
    for column in settings["tasks"]:
        if reference == UNTUNED and _tuning(column, settings) and _task(column, settings) not in settings["tasks"]:
            raise InputError(
                f"{name}.tasks: {column!r} is compared with {_task(column, settings)!r}: name that as well"
            )


def _reference_of(method: str, column: str, settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """(method, column) that a result is compared with, at the same sparsity; None for a reference itself."""
    if settings["reference"] == UNTUNED:
        return (method, _task(column, settings)) if _tuning(column, settings) else None
    if settings["reference"] == UNCOMPENSATED:
        plain = method.removeprefix("ridge_")
        return (plain, column) if plain != method and plain in settings["methods"] else None
    return None if method == settings["reference"] else (settings["reference"], column)


def same_items(samples: Mapping[str, pd.DataFrame], task: str) -> None:
    """Raise InputError, naming both variants and the task, unless all were scored on the same items.

    Args: `samples` maps a variant's name to its samples of one metric; items are the same if the number, the hash
    and the weight agree. Everything is compared with the first variant.
    """
    names = list(samples)
    key = ["item", "item_hash", "weight"]
    for name in names[1:]:
        both = samples[names[0]][key].merge(samples[name][key], on="item", how="outer", suffixes=("_a", "_b"))
        differs = (both["item_hash_a"] != both["item_hash_b"]) | (both["weight_a"] != both["weight_b"])
        differs |= both[["item_hash_a", "item_hash_b"]].isna().any(axis=1)
        if differs.any():
            example = both[differs].iloc[0]
            raise InputError(
                f"{task}: {names[0]} and {name} were scored on different items ({differs.sum()} of {len(both)} "
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


def _measures(settings: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(task, metric, kind) of every column group, in the order of the settings."""
    for task, entry in settings["tasks"].items():
        for metric in entry["metrics"]:
            yield task, metric, entry["kind"]


def _outcomes(samples: pd.DataFrame, name: str, task: str, metric: str, kind: str) -> pd.DataFrame:
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
    for task, metric, kind in _measures(settings):
        yield task, metric, _measure(_outcomes(samples[task], name, task, metric, kind), kind, settings)


def _measure(outcomes: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
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
    """The paired comparison of a variant with its reference, `name`, on the same items."""
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
    outcomes = ours["value"], other["value"]
    if kind == "perplexity":
        return significance.paired_perplexity(*outcomes, ours["weight"], settings["confidence"])[-1]
    p = significance.mcnemar_exact(*outcomes)[1]
    clusters = clusters_of(ours)
    return p if clusters is None else float(np.maximum(p, significance.cluster_robust(*outcomes, clusters)[1]))


def _calibration_rows(
    model: str,
    calib: str,
    dense: Mapping[str, pd.DataFrame],
    pruned: Mapping[Variant, Mapping[str, pd.DataFrame]],
    manifests: Mapping[Variant, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    variants = [(method, sparsity) for method in settings["methods"] for sparsity in settings["sparsities"]]
    names = {variant: f"{calib}/{variant[0]}/{variant[1]}" for variant in variants}
    outcomes, rows = {}, {}
    for column, metric, kind in _measures(settings):
        found = {v: _outcomes(pruned[v][column], names[v], column, metric, kind) for v in variants}
        baseline = _outcomes(dense[column], "dense", column, metric, kind)
        same_items({f"{model}/dense": baseline} | {f"{model}/{names[v]}": found[v] for v in variants}, column)
        outcomes |= {(v, column, metric): samples for v, samples in found.items()}
    for column, metric, kind in _measures(settings):
        for variant in variants:
            method, sparsity = variant
            ours = outcomes[variant, column, metric]
            row = _row(model, variant, column, metric, _measure(ours, kind, settings), settings, manifests[variant])
            row |= {"calib": calib, "seed": settings["models"][model]["calibrations"][calib]["seed"]}
            if reference := _reference_of(method, column, settings):
                name = UNTUNED if settings["reference"] == UNTUNED else reference[0]
                row |= _compare(ours, outcomes[(reference[0], sparsity), reference[1], metric], name, kind, settings)
            rows[variant, column, metric] = row
        for sparsity in settings["sparsities"]:
            group = [((method, sparsity), column, metric) for method in settings["methods"]]
            _mark_best([rows[key] for key in group], [outcomes[key] for key in group], kind, settings)
    ordered = [rows[variant, column, metric] for variant in variants for column, metric, _ in _measures(settings)]
    for name, adjusted in (("p_value", "p_holm"), ("p_cluster", "p_cluster_holm")):
        for row, p in zip(ordered, significance.holm([row.get(name) for row in ordered]), strict=True):
            row[adjusted] = p
    return ordered


def _row(
    model: str,
    variant: Variant,
    column: str,
    metric: str,
    measure: Mapping[str, Any],
    settings: Mapping[str, Any],
    manifest: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A row without comparison; without a manifest it is the dense model's."""
    row = {"model": model, "method": variant[0], "sparsity": variant[1], "metric": metric, **measure}
    row |= {"task": _task(column, settings), "tuning": _tuning(column, settings)}
    row |= {"achieved_sparsity": 0.0, "params_removed": 0.0, "best": False, "near_best": False}
    if manifest is not None:
        row["achieved_sparsity"] = manifest["achieved_sparsity"]
        row["params_removed"] = 1 - manifest["parameters_kept"] / manifest["parameters"]
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


# From rows to the paper's layout ------------------------------------------------------------------------------------


def layout(frame: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]) -> list[Block]:
    """Rows of `table_rows` (of any number of models) in the paper's layout, one block a model and calibration, with
    the notes that explain it; models with several calibrations get one more, the spread over them.

    `wide` (Table 1): rows are methods, column groups sparsities, columns tasks. `long` (Tables 6 and 7): rows are
    methods at a sparsity."""
    _check_layout(settings)
    blocks = []
    for model, entry in settings["models"].items():
        of_model = frame[frame["model"] == model]
        dense, pruned = of_model[of_model["method"] == DENSE[0]], of_model[of_model["method"] != DENSE[0]]
        for calib in entry["calibrations"]:
            blocks.append(_block(model, calib, dense, pruned[pruned["calib"] == calib], published, settings))
        if len(entry["calibrations"]) > 1:
            blocks.append(_spread_block(model, dense, pruned, settings))
    return blocks


def _check_layout(settings: Mapping[str, Any]) -> None:
    if settings["layout"] not in ("wide", "long"):
        raise InputError(f"{settings['name']}.layout: {settings['layout']!r} is neither 'wide' nor 'long'")


def _block(
    model: str,
    calib: str,
    dense: pd.DataFrame,
    pruned: pd.DataFrame,
    published: pd.DataFrame,
    settings: Mapping[str, Any],
) -> Block:
    notes = _legend(dense, pruned, settings) + _widths(pruned) + _published_notes(pruned, published, settings)
    if note := settings["models"][model]["note"]:
        notes.insert(0, f"`{model}`: {note.rstrip('.')}.")
    notes += _asked(settings)
    tunings = {entry["tuning"]: entry["note"] for entry in settings["tasks"].values() if entry.get("note")}
    notes += [f"`{tuning}`: {note.rstrip('.')}." for tuning, note in tunings.items()]
    title = f"`{model}` after FFN neurons were removed by each method, calibrated on `{calib}`"
    return _arranged(f"{model}-{calib}", title, _cells(dense, pruned, settings), notes, settings)


def _cells(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> dict[tuple, Cell]:
    """(method, sparsity, column, metric) -> printed result; the dense model's under sparsity 0."""
    of = {
        (r["method"], r["sparsity"], r["task"], _text(r["tuning"]), r["metric"]): r for r in pruned.to_dict("records")
    }
    of_dense = {(r["task"], r["metric"]): r for r in dense.to_dict("records")}
    cells = {}
    for column, metric, _ in _measures(settings):
        task, tuning = _task(column, settings), _text(_tuning(column, settings))
        cells[(*DENSE, column, metric)] = _cell(of_dense[task, metric], column, settings)
        for method in settings["methods"]:
            for sparsity in settings["sparsities"]:
                row = of[method, sparsity, task, tuning, metric]
                cells[method, sparsity, column, metric] = _cell(row, column, settings)
    return cells


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _arranged(
    name: str, title: str, cells: Mapping[tuple, Cell], notes: list[str], settings: Mapping[str, Any]
) -> Block:
    """Cells of `_cells` as a block, wide or long; the dense model's stand in every column group, or on top."""
    measures = [measure[:2] for measure in _measures(settings)]
    label = {m: f"`{m}` (reference)" if m == settings["reference"] else f"`{m}`" for m in settings["methods"]}
    sparsities = settings["sparsities"]
    dense = [cells[(*DENSE, *measure)] for measure in measures if (*DENSE, *measure) in cells]
    if settings["layout"] == "wide":
        groups = [f"{sparsity}%" for sparsity in sparsities]
        rows = [("dense", dense * len(sparsities))] if dense else []
        rows += [(label[m], [cells[m, s, *key] for s in sparsities for key in measures]) for m in label]
    else:
        groups = [""]
        rows = [("dense", dense)] if dense else []
        rows += [(f"{label[m]}, {s}%", [cells[m, s, *key] for key in measures]) for s in sparsities for m in label]
    return Block(name, title, groups, [_title(*key, settings) for key in measures], rows, notes)


def _spread_block(model: str, dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    """Mean, standard deviation and range over the calibrations: what the choice of calibration text brings."""
    calibrations = settings["models"][model]["calibrations"]
    keys = ["method", "sparsity", "task", "tuning", "metric"]
    spread = pruned.assign(tuning=pruned["tuning"].map(_text)).groupby(keys)["value"].agg(["mean", "std", "min", "max"])
    cells = {}
    for column, metric, kind in _measures(settings):
        show = percent if kind == "accuracy" else plain
        for method in settings["methods"]:
            for sparsity in settings["sparsities"]:
                key = (method, sparsity, _task(column, settings), _text(_tuning(column, settings)), metric)
                mean, deviation, low, high = show(*spread.loc[key])
                cells[method, sparsity, column, metric] = Cell(f"{mean} ± {deviation}", f"[{low}, {high}]")
    named = ", ".join(f"`{name}` (seed {entry['seed']})" for name, entry in calibrations.items())
    notes = [
        f"Mean ± standard deviation over {len(calibrations)} calibrations, the smallest and largest value in brackets: "
        f"{named}. The test items are the same, so this is the spread that the choice of calibration text brings."
    ]
    title = f"`{model}`: spread over calibrations"
    return _arranged(f"{model}-spread", title, cells, notes, settings)


def _title(column: str, metric: str, settings: Mapping[str, Any]) -> str:
    entry = settings["tasks"][column]
    notes = [metric] if len(entry["metrics"]) > 1 else []
    notes += [f"tuned on {entry['tuning']}"] if entry.get("tuning") else []
    return f"{entry['title']} ({'; '.join(notes)})" if notes else entry["title"]


def _cell(row: Mapping[str, Any], column: str, settings: Mapping[str, Any]) -> Cell:
    accuracy = settings["tasks"][column]["kind"] == "accuracy"
    show, unit = (percent, 100) if accuracy else (plain, 1)
    marks = ["†"] if row["near_best"] else []
    compared = row["method"] != DENSE[0] and _reference_of(row["method"], column, settings)
    if compared and not _significant(row, settings):
        marks.append("n.s.")
    value, low, high = show(row["value"], row["ci_low"], row["ci_high"])
    published = ""
    if not math.isnan(row["published"]):
        difference = round(unit * (row["value"] - row["published"]), 1) + 0.0  # + 0.0 makes -0.0 a plain zero
        published = f"paper {unit * row['published']:.2f}, {difference:+.1f}".replace("-", "−")
    return Cell(value, f"[{low}, {high}]", row["best"], tuple(marks), published)


def _significant(row: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether every test of a comparison finds a difference. An undefined p (a single window) is no evidence."""
    tests = ["p_holm", "p_cluster_holm"] if pd.notna(row.get("clusters")) else ["p_holm"]
    return all(row[p] <= 1 - settings["confidence"] for p in tests)


def _legend(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """The notes that say what the numbers are and how they were compared."""
    kinds = list(dict.fromkeys(kind for _, _, kind in _measures(settings)))
    level = f"{100 * settings['confidence']:g}%"
    what = {
        "accuracy": f"accuracy in per cent (higher is better) with Wilson's {level} interval",
        "perplexity": f"perplexity per token (lower is better) with a {level} t interval over blocks of "
        "neighbouring windows",
    }
    shown = "; ".join(what[kind] for kind in kinds)
    seed = pruned["seed"].iloc[0]
    notes = [
        f"Each cell: {shown}. Intervals and tests cover the choice of test items, not that of the calibration text: "
        f"calibration seed {seed} only.",
        f"Size of the tests: {_sizes(dense, settings)}. All variants were scored on the same items.",
        "Sparsity is the share of FFN neurons removed. dense is the unpruned model, sparsity 0: one measurement, "
        "repeated under every sparsity.",
    ]
    tuned = [bool(_tuning(column, settings)) for column in settings["tasks"]]
    if any(tuned) and not all(tuned):
        notes.append("Columns without `tuned on`: the pruned models as they are, before any recovery.")
    comparisons = int(pruned["p_value"].notna().sum())
    alpha = f"{1 - settings['confidence']:.3g}"
    reference = {
        UNTUNED: "the same model before LoRA recovery",
        UNCOMPENSATED: "the same method without ridge compensation",
    }.get(settings["reference"], f"the reference method, `{settings['reference']}`, at the same sparsity")
    if comparisons:
        named = ", ".join(f"{TESTS[kind]} for {kind}" for kind in kinds)
        notes.append(
            f"n.s.: not significantly different from {reference}, on the same items ({named}; p > {alpha} after "
            f"Holm's adjustment over the {comparisons} comparisons of this table). A compared value without n.s. "
            "differs significantly, up or down. Differences, intervals and p-values are in the CSV beside this table."
        )
    notes += _cluster_notes(dense, pruned, settings)
    notes.append(
        "Bold: best of its column, dense left aside. †: not significantly worse than the best (same tests, Holm within "
        "the column). No p-value is given for either: the best was chosen by looking at these very items."
    )
    return notes + _leakage(pruned, settings)


def _asked(settings: Mapping[str, Any]) -> list[str]:
    """How questions were put where the config says otherwise than lm-eval's task."""
    notes = {}
    for entry in settings["tasks"].values():
        asked, how = entry.get("asked") or {}, []
        if (examples := asked.get("num_fewshot")) is not None:
            same = ", the same ones before every question" if examples and asked["shared_examples"] else ""
            how.append(f"{examples or 'no'} worked example{'' if examples == 1 else 's'}{same}")
        if asked.get("chat_template"):
            how.append("the model's chat format")
        if asked.get("max_gen_toks"):
            how.append(f"answers of at most {asked['max_gen_toks']} tokens")
        if asked.get("first"):
            how.append(f"items from number {asked['first']:,} on")
        if how:
            notes[entry["title"]] = f"{entry['title']}: {', '.join(how)}."
    return list(notes.values())


def _cluster_notes(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What the tests speak of where items share templates, and what two forms of an accuracy are."""
    of_task = {_task(column, settings): entry["title"] for column, entry in reversed(settings["tasks"].items())}
    clustered = dense[dense["clusters"].notna()].drop_duplicates("task")
    notes = []
    if len(clustered):
        named = ", ".join(f"{of_task[row.task]} {row.clusters}" for row in clustered.itertuples())
        notes.append(
            f"Items share templates ({named}). Wilson's interval and McNemar's test speak of these stories with other "
            "numbers, a t-test over templates (cluster-robust) of other stories of the same kind: n.s. unless both are "
            f"significant, the latter after Holm over its own {int(pruned['p_cluster'].notna().sum())} comparisons."
        )
        if (effects := pruned["design_effect"].dropna()).size:
            notes[-1] += (
                f" Design effect of the differences (their variance with templates over that without): median "
                f"{effects.median():.1f}, largest {effects.max():.1f}."
            )
    if (dense["metric"] == "acc_norm").any():
        notes.append("acc: the likeliest option; acc_norm: the likeliest a character of the option's text.")
    return notes


def _leakage(pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What test items share with the text that was calibrated or tuned on (leakage.csv)."""
    used = {*pruned["calib"], *pruned["tuning"].dropna()}
    tasks = {_task(column, settings) for column in settings["tasks"]}
    found = [r for r in settings.get("leakage", []) if r["source"] in used and r["task"] in tasks]
    if not found:
        return []
    parts = [
        f"`{r['task']}` against `{r['source']}`: {r['identical']} identical, {r['overlapping']} sharing half of their "
        f"{r['n']}-grams, of {r['items']}"
        for r in found
        if r["identical"] or r["overlapping"]
    ]
    rest = [] if len(parts) == len(found) else ["no other task shares any" if parts else "none"]
    return [f"Test items found in the text that was calibrated or tuned on: {'; '.join(parts + rest)}."]


def _sizes(dense: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    parts = []
    of_task = {_task(column, settings): entry for column, entry in reversed(settings["tasks"].items())}
    for row in dense.itertuples():
        unit = "items"
        if of_task[row.task]["kind"] == "perplexity":
            unit = f"predicted tokens in {row.windows} windows"
            if row.windows < LEAST_WINDOWS:
                unit += f" (fewer than {LEAST_WINDOWS} windows: their tests tell little)"
        parts.append(f"{of_task[row.task]['title']} n = {row.n:,} {unit} (`{row.metric}`)")
    return "; ".join(parts)


def _widths(pruned: pd.DataFrame) -> list[str]:
    """How much of the model went, and where the sparsity is not the nominal one."""
    models = pruned.drop_duplicates(["method", "sparsity"])
    removed = []
    for sparsity, group in models.groupby("sparsity", sort=True):
        low, high = percent(group["params_removed"].min(), group["params_removed"].max())
        removed.append(f"{low}% at sparsity {sparsity}%" if low == high else f"{low}–{high}% at sparsity {sparsity}%")
    notes = [f"Share of all the model's parameters removed: {'; '.join(removed)}."]
    deviation = 100 * models["achieved_sparsity"] - models["sparsity"].astype(float)
    off = models[deviation.abs() > 0.5 + 1e-9]  # 1e-9: half a point exactly is no more than half a point
    if len(off):
        listed = [f"`{r.method}` at {r.sparsity}%: {100 * r.achieved_sparsity:.1f}%" for r in off.itertuples()]
        notes.append(f"Achieved sparsity more than 0.5 points off the nominal one: {'; '.join(listed)}.")
    return notes


def _published_notes(pruned: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """What a published value beside a measured one means, and the known trouble with it."""
    shown = set(pruned.loc[pruned["published"].notna(), "method"])
    readings = []
    for method, presets in published[["method", "presets"]].drop_duplicates().itertuples(index=False):
        candidates = presets.split(";")
        if shown & set(candidates):
            readings.append(f"{method} = {' or '.join(f'`{preset}`' for preset in candidates)}")
    if not readings:
        return []
    return [
        f"paper: the value published in {settings['paper'].replace('table', 'Table ')} of the RKU paper, and measured "
        f"minus published. The paper does not say how it allocates sparsity to layers: {'; '.join(readings)}. Where "
        "two presets are named, one published row has two candidate readings and stands beside both; never a "
        "reproduction claim.",
        *settings["paper_notes"],
    ]
