"""Table 1: what every method leaves of a model, from per-item outcomes to rows and to the paper's layout.

`table1_rows` compares variants item by item and returns one row a (variant, task, metric); `layout` arranges
rows as the paper does, one block a (model, calibration); `to_markdown` and `to_tex` print blocks. Nothing here
reads or writes results. A *variant* is a model as it was evaluated: a (method, sparsity) pair, sparsity in whole
per cent; DENSE is the unpruned model. *Samples* are one row an item and metric, with the columns `item`,
`item_hash`, `metric`, `value` (0 or 1 for accuracy; a window's summed NLL in nats for perplexity) and `weight`
(1; the window's number of predicted tokens). `settings` is the dict that scripts/table1.py documents.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pruning import inference
from pruning.errors import InputError

Variant = tuple[str, int]
DENSE: Variant = ("dense", 0)

COLUMNS = [
    *("model", "calib", "seed", "method", "sparsity", "achieved_sparsity", "params_removed", "task", "metric", "n"),
    *("value", "ci_low", "ci_high", "reference", "delta", "delta_low", "delta_high", "test", "discordant"),
    *("p_value", "p_holm", "published"),
]
# Only the printed table needs these: chosen by looking at the results, so no p-value goes with them.
MARKS = ["best", "near_best"]
INTEGERS = ["seed", "sparsity", "n", "discordant"]
TEXTS = ["model", "calib", "method", "task", "metric", "reference", "test"]

TESTS = {"accuracy": "exact McNemar", "perplexity": "paired block bootstrap"}
PUBLISHED = ["model", "method", "presets", "sparsity", "task", "metric", "value"]

# Known trouble in the published Table 1 (resources/paper/README.md).
PAPER_NOTES = [
    "The published table has n = 1,319 (GSM8K) and n = 254 (AQuA) and no intervals, and its per-item answers are not "
    "public: the difference printed beside a published value is not tested, and means little where n differs here.",
    "By the published numbers alone (unpaired z-test), RKU against AGF on GSM8K is significant at 30% (z about 3.75) "
    "and not at 40% (13.34 against 12.28, z = 0.8); no AQuA difference in the table is significant.",
    "The paper contradicts itself: its Section 4.4 gives AGF at 40% as 18.04 (GSM8K) and 0.00 (AQuA), Table 1 says "
    "12.28 and 27.17; its Table 3 repeats the AQuA column with other values in 6 of 12 cells.",
    "The paper names neither its calibration data nor its prompts: those used here are this pipeline's choices.",
]


# From samples to rows -----------------------------------------------------------------------------------------------


def table1_rows(
    model: str,
    dense: Mapping[str, pd.DataFrame],
    pruned: Mapping[str, Mapping[Variant, Mapping[str, pd.DataFrame]]],
    manifests: Mapping[str, Mapping[Variant, Mapping[str, Any]]],
    published: pd.DataFrame,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """Table 1 of one model: the dense model's rows, then each calibration's, in the order of the settings.

    Args: `dense` maps a task to samples, `pruned` a calibration, variant and task; `manifests` maps a calibration
    and variant to what compaction recorded (`achieved_sparsity` as a fraction, `parameters` before and
    `parameters_kept` after); `published` as `read_published` returns it.
    Returns COLUMNS and MARKS. Accuracies, their intervals and differences are fractions; differences are the
    method's value minus the reference's. p_holm is Holm's adjustment over all comparisons of a calibration.
    Raises InputError if samples lack a metric, hold values of another kind, or cover other items than each other.
    """
    _check_reference(settings)
    rows = [_row(model, DENSE, task, metric, measure) for task, metric, measure in _measured(dense, "dense", settings)]
    for calib, variants in pruned.items():
        rows += _calibration_rows(model, calib, dense, variants, manifests[calib], settings)
    _add_published(rows, published)
    frame = pd.DataFrame(rows, columns=COLUMNS + MARKS)
    numbers = [name for name in COLUMNS if name not in INTEGERS + TEXTS]
    types = dict.fromkeys(INTEGERS, "Int64") | dict.fromkeys(numbers, "float64") | dict.fromkeys(MARKS, "bool")
    return frame.astype(types)


def _check_reference(settings: Mapping[str, Any]) -> None:
    if settings["reference"] not in settings["methods"]:
        raise InputError(
            f"table1.reference: {settings['reference']!r} is not among the methods of this table "
            f"({', '.join(settings['methods'])}); name one of them"
        )


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
    """A published table (resources/paper/), values as fractions. Raises InputError if missing or no such table."""
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"table1.published: {path}: no such file") from None
    if list(frame.columns) != PUBLISHED:
        raise InputError(f"table1.published: {path}: expected the columns {', '.join(PUBLISHED)}")
    return frame


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
        raise InputError(f"{where}: no samples of metric {metric!r}; found {found}: mend table1.tasks.{task}.metrics")
    if chosen["item"].duplicated().any():
        raise InputError(f"{where}: an item occurs twice; delete the samples and evaluate again")
    if kind == "accuracy":
        for row in chosen[~chosen["value"].isin([0, 1])].itertuples():
            raise InputError(
                f"{where}: {metric} of item {row.item} is {row.value}, an accuracy's is 0 or 1; choose another metric "
                f"or mend table1.tasks.{task}.kind"
            )
    else:
        try:
            inference.perplexity(chosen["value"], chosen["weight"])
        except ValueError as error:
            raise InputError(f"{where}: no perplexity: {error}") from None
    return chosen


def _measured(
    samples: Mapping[str, pd.DataFrame], name: str, settings: Mapping[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for task, metric, kind in _measures(settings):
        yield task, metric, _measure(_outcomes(samples[task], name, task, metric, kind), kind, settings)


def _measure(outcomes: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A variant's value with its interval: of an accuracy Wilson's, of a perplexity the block bootstrap's."""
    if kind == "accuracy":
        correct, n = int(outcomes["value"].sum()), len(outcomes)
        value, (low, high) = correct / n, inference.wilson(correct, n, settings["confidence"])
    else:
        windows = outcomes["value"], outcomes["weight"]
        n, value = int(outcomes["weight"].sum()), inference.perplexity(*windows)
        low, high = inference.block_bootstrap_perplexity(*windows, *_bootstrap(settings))
    return {"n": n, "value": value, "ci_low": low, "ci_high": high}


def _compare(ours: pd.DataFrame, reference: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The paired comparison of a variant with the reference method's on the same items."""
    if kind == "accuracy":
        discordant, p = inference.mcnemar_exact(ours["value"], reference["value"])
        delta, low, high = inference.paired_bootstrap(ours["value"], reference["value"], *_bootstrap(settings))
    else:
        discordant = None
        delta, low, high, p = inference.paired_perplexity(
            ours["value"], reference["value"], ours["weight"], *_bootstrap(settings)
        )
    comparison = {"reference": settings["reference"], "delta": delta, "delta_low": low, "delta_high": high}
    return comparison | {"test": TESTS[kind], "discordant": discordant, "p_value": p}


def _mark_best(
    rows: Sequence[dict[str, Any]], outcomes: Sequence[pd.DataFrame], kind: str, settings: Mapping[str, Any]
) -> None:
    """Mark the best rows of one column and those not significantly worse than it (Holm within the column)."""
    choose = max if kind == "accuracy" else min
    best = choose(row["value"] for row in rows)
    winner = next(samples for row, samples in zip(rows, outcomes, strict=True) if row["value"] == best)
    p_values = [_p_value(samples, winner, kind, settings) for samples in outcomes]
    losers = [None if row["value"] == best else p for row, p in zip(rows, p_values, strict=True)]
    for row, p in zip(rows, inference.holm(losers), strict=True):
        row["best"] = row["value"] == best
        row["near_best"] = not row["best"] and not p <= 1 - settings["confidence"]


def _p_value(ours: pd.DataFrame, other: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> float:
    if kind == "accuracy":
        return inference.mcnemar_exact(ours["value"], other["value"])[1]
    return inference.paired_perplexity(ours["value"], other["value"], ours["weight"], *_bootstrap(settings))[-1]


def _bootstrap(settings: Mapping[str, Any]) -> tuple[float, int, int]:
    return settings["confidence"], settings["resamples"], settings["seed"]


def _calibration_rows(
    model: str,
    calib: str,
    dense: Mapping[str, pd.DataFrame],
    pruned: Mapping[Variant, Mapping[str, pd.DataFrame]],
    manifests: Mapping[Variant, Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    variants = [(method, sparsity) for method in settings["methods"] for sparsity in settings["sparsities"]]
    rows = {}
    for task, metric, kind in _measures(settings):
        names = {variant: f"{calib}/{variant[0]}/{variant[1]}" for variant in variants}
        outcomes = {v: _outcomes(pruned[v][task], names[v], task, metric, kind) for v in variants}
        baseline = _outcomes(dense[task], "dense", task, metric, kind)
        same_items({f"{model}/dense": baseline} | {f"{model}/{names[v]}": outcomes[v] for v in variants}, task)
        for variant in variants:
            method, sparsity = variant
            row = _row(model, variant, task, metric, _measure(outcomes[variant], kind, settings), manifests[variant])
            row |= {"calib": calib, "seed": settings["models"][model]["calibrations"][calib]["seed"]}
            if method != settings["reference"]:
                row |= _compare(outcomes[variant], outcomes[settings["reference"], sparsity], kind, settings)
            rows[variant, task, metric] = row
        for sparsity in settings["sparsities"]:
            column = [(method, sparsity) for method in settings["methods"]]
            _mark_best([rows[v, task, metric] for v in column], [outcomes[v] for v in column], kind, settings)
    ordered = [rows[variant, task, metric] for variant in variants for task, metric, _ in _measures(settings)]
    for row, p in zip(ordered, inference.holm([row.get("p_value") for row in ordered]), strict=True):
        row["p_holm"] = p
    return ordered


def _row(
    model: str,
    variant: Variant,
    task: str,
    metric: str,
    measure: Mapping[str, Any],
    manifest: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A row without comparison; without a manifest it is the dense model's."""
    row = {"model": model, "method": variant[0], "sparsity": variant[1], "task": task, "metric": metric, **measure}
    row |= {"achieved_sparsity": 0.0, "params_removed": 0.0, "best": False, "near_best": False}
    if manifest is not None:
        row["achieved_sparsity"] = manifest["achieved_sparsity"]
        row["params_removed"] = 1 - manifest["parameters_kept"] / manifest["parameters"]
    return row


def _add_published(rows: Sequence[dict[str, Any]], published: pd.DataFrame) -> None:
    values = {
        (entry.model, preset, round(100 * entry.sparsity), entry.task, entry.metric): entry.value
        for entry in published.itertuples()
        for preset in entry.presets.split(";")
    }
    for row in rows:
        row["published"] = values.get(tuple(row[name] for name in ("model", "method", "sparsity", "task", "metric")))


# From rows to the paper's layout ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One printed result: value and interval, marks (†, n.s.), and the published value with the difference."""

    value: str
    interval: str
    best: bool = False
    marks: tuple[str, ...] = ()
    published: str = ""


@dataclass(frozen=True)
class Block:
    """One (model, calibration). Texts are Markdown with no markup but `code`; rows have a cell per group and column."""

    name: str
    title: str
    groups: list[str]
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str]


def layout(frame: pd.DataFrame, published: pd.DataFrame, settings: Mapping[str, Any]) -> list[Block]:
    """Rows of `table1_rows` (of any number of models) in the paper's layout: rows are methods, column groups
    sparsities, columns tasks; one block a model and calibration, with the notes that explain it."""
    blocks = []
    for model, entry in settings["models"].items():
        of_model = frame[frame["model"] == model]
        dense = of_model[of_model["method"] == DENSE[0]]
        for calib in entry["calibrations"]:
            blocks.append(_block(model, calib, dense, of_model[of_model["calib"] == calib], published, settings))
    return blocks


def _block(
    model: str,
    calib: str,
    dense: pd.DataFrame,
    pruned: pd.DataFrame,
    published: pd.DataFrame,
    settings: Mapping[str, Any],
) -> Block:
    measures = list(_measures(settings))
    indexed = pruned.set_index(["method", "sparsity", "task", "metric"])
    unpruned = [_cell(row, settings) for row in dense.to_dict("records")]
    rows = [("dense", unpruned * len(settings["sparsities"]))]
    for method in settings["methods"]:
        keys = [(method, sparsity, *measure[:2]) for sparsity in settings["sparsities"] for measure in measures]
        label = f"`{method}` (reference)" if method == settings["reference"] else f"`{method}`"
        cells = [_cell({"method": method, "task": key[2], **indexed.loc[key].to_dict()}, settings) for key in keys]
        rows.append((label, cells))
    notes = _legend(dense, pruned, settings) + _widths(pruned) + _published_notes(pruned, published)
    if note := settings["models"][model]["note"]:
        notes.insert(0, f"`{model}`: {note.rstrip('.')}.")
    return Block(
        name=f"{model}-{calib}",
        title=f"`{model}` after FFN neurons were removed by each method, calibrated on `{calib}`",
        groups=[f"{sparsity}%" for sparsity in settings["sparsities"]],
        columns=[_title(task, metric, settings) for task, metric, _ in measures],
        rows=rows,
        notes=notes,
    )


def _title(task: str, metric: str, settings: Mapping[str, Any]) -> str:
    entry = settings["tasks"][task]
    return entry["title"] if len(entry["metrics"]) == 1 else f"{entry['title']} ({metric})"


def _cell(row: Mapping[str, Any], settings: Mapping[str, Any]) -> Cell:
    accuracy = settings["tasks"][row["task"]]["kind"] == "accuracy"
    show, unit = (_percent, 100) if accuracy else (_plain, 1)
    marks = ["†"] if row["near_best"] else []
    compared = row["method"] not in (DENSE[0], settings["reference"])
    # An undefined p (a single window) is no evidence either, hence not "p > alpha".
    if compared and not row["p_holm"] <= 1 - settings["confidence"]:
        marks.append("n.s.")
    value, low, high = show(row["value"], row["ci_low"], row["ci_high"])
    published = ""
    if not math.isnan(row["published"]):
        difference = round(unit * (row["value"] - row["published"]), 1) + 0.0  # + 0.0 makes -0.0 a plain zero
        published = f"paper {unit * row['published']:.2f}, {difference:+.1f}".replace("-", "−")
    return Cell(value, f"[{low}, {high}]", row["best"], tuple(marks), published)


def _percent(*values: float) -> list[str]:
    return [f"{100 * value:.1f}" for value in values]


def _plain(*values: float) -> list[str]:
    """Perplexities, all with the decimals that suit the first: four digits or so."""
    decimals = max(0, 2 - max(0, math.floor(math.log10(values[0])) - 1))
    return ["–" if math.isnan(value) else f"{value:,.{decimals}f}" for value in values]


def _legend(dense: pd.DataFrame, pruned: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    """The notes that say what the numbers are and how they were compared."""
    kinds = list(dict.fromkeys(kind for _, _, kind in _measures(settings)))
    level = f"{100 * settings['confidence']:g}%"
    what = {
        "accuracy": f"accuracy in per cent (higher is better) with Wilson's {level} interval",
        "perplexity": f"perplexity per token (lower is better) with a {level} block-bootstrap interval over windows",
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
    comparisons = int(pruned["p_value"].notna().sum())
    alpha = f"{1 - settings['confidence']:.3g}"
    if len(settings["methods"]) > 1:
        named = ", ".join(f"{TESTS[kind]} for {kind}" for kind in kinds)
        notes.append(
            f"n.s.: not significantly different from the reference method, `{settings['reference']}`, at the same "
            f"sparsity on the same items ({named}; p > {alpha} after Holm's adjustment over the {comparisons} "
            "comparisons of this table). A value without n.s. differs significantly from the reference, up or down. "
            "Differences, their intervals and p-values are in the CSV beside this table."
        )
    notes.append(
        "Bold: best of its column, dense left aside. †: not significantly worse than the best (same test, Holm within "
        "the column). No p-value is given for either: the best was chosen by looking at these very items."
    )
    return notes


def _sizes(dense: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    parts = []
    for row in dense.itertuples():
        entry = settings["tasks"][row.task]
        unit = "items" if entry["kind"] == "accuracy" else "predicted tokens"
        parts.append(f"{entry['title']} n = {row.n:,} {unit} (`{row.metric}`)")
    return "; ".join(parts)


def _widths(pruned: pd.DataFrame) -> list[str]:
    """How much of the model went, and where the sparsity is not the nominal one."""
    models = pruned.drop_duplicates(["method", "sparsity"])
    removed = []
    for sparsity, group in models.groupby("sparsity", sort=True):
        low, high = _percent(group["params_removed"].min(), group["params_removed"].max())
        removed.append(f"{low}% at sparsity {sparsity}%" if low == high else f"{low}–{high}% at sparsity {sparsity}%")
    notes = [f"Share of all the model's parameters removed: {'; '.join(removed)}."]
    deviation = 100 * models["achieved_sparsity"] - models["sparsity"].astype(float)
    off = models[deviation.abs() > 0.5 + 1e-9]  # 1e-9: half a point exactly is no more than half a point
    if len(off):
        listed = [f"`{r.method}` at {r.sparsity}%: {100 * r.achieved_sparsity:.1f}%" for r in off.itertuples()]
        notes.append(f"Achieved sparsity more than 0.5 points off the nominal one: {'; '.join(listed)}.")
    return notes


def _published_notes(pruned: pd.DataFrame, published: pd.DataFrame) -> list[str]:
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
        "paper: the value published in Table 1 of the RKU paper, and measured minus published in points. The paper "
        f"does not say how it allocates sparsity to layers: {'; '.join(readings)}. Where two presets are named, one "
        "published row has two candidate readings and stands beside both; never a reproduction claim.",
        *PAPER_NOTES,
    ]


# Printing -----------------------------------------------------------------------------------------------------------


def to_markdown(blocks: Sequence[Block]) -> str:
    """All blocks as GitHub Markdown, the source aligned so that it can be read as it stands."""
    return "# Table 1: what pruning leaves of each model\n\n" + "\n".join(map(_markdown_block, blocks))


def _markdown_block(block: Block) -> str:
    header = ["Method", *(f"{group}: {column}" for group in block.groups for column in block.columns)]
    body = [[label, *map(_markdown_cell, cells)] for label, cells in block.rows]
    table = [[text.replace("|", "\\|") for text in line] for line in [header, *body]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [f"* {note}" for note in block.notes]
    return "\n".join([f"## {block.title}", "", *lines, "", *notes, ""])


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    published = [f"({cell.published})"] if cell.published else []
    return " ".join([value, cell.interval, *cell.marks, *published])


def to_tex(blocks: Sequence[Block]) -> str:
    """All blocks as LaTeX floats; the interval and the published value stand below each value, to fit a page."""
    return "% \\usepackage{booktabs} in the preamble\n" + "\n".join(map(_tex_block, blocks))


def _tex_block(block: Block) -> str:
    width = len(block.columns)
    groups = [f"\\multicolumn{{{width}}}{{c}}{{{_tex(group)} sparsity}}" for group in block.groups]
    starts = [2 + width * i for i in range(len(groups))]
    header = ["Method", *(_tex(column) for _ in groups for column in block.columns)]
    lines = [
        r"\begin{table*}[t]",
        r"\centering\small",
        f"\\caption{{{_tex(block.title)}.}}",
        f"\\label{{tab:table1-{block.name}}}",
        f"\\begin{{tabular}}{{l{'c' * (width * len(groups))}}}",
        r"\toprule",
        " & ".join(["", *groups]) + r" \\",
        " ".join(f"\\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts),
        " & ".join(header) + r" \\",
    ]
    for i, (label, cells) in enumerate(block.rows):
        lines += [r"\midrule" if i < 2 else r"\addlinespace"]  # rules above and below the dense row
        lines += _tex_rows(label, cells)
    notes = [f"{_tex(note)}\\par" for note in block.notes]
    minipage = [r"\par\medskip", r"\begin{minipage}{\textwidth}\footnotesize", *notes, r"\end{minipage}"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *minipage, r"\end{table*}", ""])


def _tex_rows(label: str, cells: Sequence[Cell]) -> list[str]:
    values = [
        "\\,".join([f"\\textbf{{{_tex(c.value)}}}" if c.best else _tex(c.value), *map(_tex, c.marks)]) for c in cells
    ]
    small = [[cell.interval for cell in cells]]
    if any(cell.published for cell in cells):
        small.append([cell.published for cell in cells])
    below = [["", *(f"{{\\scriptsize {_tex(text)}}}" if text else "" for text in line)] for line in small]
    return [" & ".join(line) + r" \\" for line in [[_tex(label), *values], *below]]


TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "†": r"$^{\dagger}$"}
TEX |= {"−": "$-$", "–": "--", ">": "$>$", "<": "$<$", "=": "$=$"} | {c: f"\\{c}" for c in "&%$#_{}"}


def _tex(text: str) -> str:
    """Plain text with `code` as LaTeX."""
    parts = ["".join(TEX.get(c, c) for c in part) for part in text.split("`")]
    return "".join(f"\\texttt{{{part}}}" if i % 2 else part for i, part in enumerate(parts))
