"""What the page to decide by says of models beside each other: of methods, and of what may be taken instead."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from pruning.analysis.tradeoff import variant_of
from pruning.command import words
from pruning.command.decision import OF_TEXT, Measure
from pruning.core import significance
from pruning.core.names import Variant

OTHER_TEXT = "That is on text like yours, which models are pruned for: on other text they lose far more."


def between(table: pd.DataFrame, measured: Sequence[Measure]) -> list[str]:
    """Return how methods compare with the first one: a line above, and one for each pruned model of the others.

    table: results/methods.csv, whose tests are against that method at equal sparsity."""
    rows = {(variant_of(row), (row["task"], row["metric"])): row for row in table.to_dict("records")}
    shown = {(each.task, each.metric): each for each in measured if each.key in (*OF_TEXT, "answers")}
    found: dict[str, list[str]] = {}
    for (variant, column), row in rows.items():
        first = rows.get((replace(variant, method=row["reference"]), column))  # none of an edited table's reference
        if column not in shown or not isinstance(row["reference"], str) or first is None:
            continue
        measure = shown[column]
        own, other = (words.value(measure, each["value"]) for each in (row, first))
        p = significance.shown(row["p_holm"])
        test = "n.s." if row["p_holm"] >= words.SIGNIFICANT else f"p {p}" if p.startswith("<") else f"p = {p}"
        models = f"{words.name(variant)}, against {row['reference']}"
        found.setdefault(models, []).append(f"{measure.title.lower()} {own} and {other} ({test})")
    return ["Methods are compared at equal sparsity, by paired tests on the test data, after Holm:"] * bool(found) + [
        f"{models}: {', '.join(said)}." for models, said in found.items()
    ]


FEWER_BITS, SMALLER_MODEL = "the dense model in fewer bits", "a smaller model"
BETTER = "better than the best dense file that is not larger"
SMALLER = "smaller than every dense file"
LEVEL = "not significantly different from the best dense file that is not larger"
WORSE = "worse"


def against(
    judged: pd.DataFrame, shown: pd.DataFrame, taken: Variant, verdict: Measure, measure: Measure, by: str
) -> words.Against:
    """Return whether to prune or to take what is not pruned (`--against`): the verdict, and a table.

    judged, shown: rows of one column of results/….-bytes.csv, of the measures `verdict` and `measure`. taken: the model
    to take; its recovery's rows are compared with those of equally recovered models. by: `verdict` in words."""
    values = judged.set_index("label")["value"]
    found: dict[str, list[str]] = {outcome: [] for outcome in (BETTER, SMALLER, LEVEL, WORSE)}
    for row in judged.to_dict("records"):
        if variant_of(row) == taken:
            outcome = _outcome(row, values, verdict.better)
            than = f" (than {_plain(row['alternative'])})" if outcome == WORSE else ""
            found[outcome].append(f"{'unquantised' if pd.isna(row['type']) else row['type'].upper()}{than}")
    lines = []
    for row in shown.astype({"alternative": object}).to_dict("records"):
        own, low, high = (words.value(measure, row[key]) for key in ("value", "ci_low", "ci_high"))
        cells = [_plain(row["label"]), f"{row['bytes'] / 1e6:,.1f}", f"{own} [{low}, {high}]"]
        lines.append([*cells, _plain(row["alternative"]), significance.shown(row["alternative_p_holm"])])
    said = "; ".join(f"{outcome} as {', '.join(kinds)}" for outcome, kinds in found.items() if kinds)
    wins = any(kinds for outcome, kinds in found.items() if outcome != WORSE)
    heads = ["File", "MB", words.capital(measure.title), "Best dense file that is not larger", "p"]
    return words.Against(wins, by, f"{words.name(taken)} is {said}. {OTHER_TEXT}", heads, lines)


def _outcome(row: Mapping[str, Any], values: pd.Series, better: str) -> str:
    """Return how a pruned file compares. values: by label; better: `lower` or `higher`."""
    if not isinstance(row["alternative"], str):
        return SMALLER
    if row["alternative_p_holm"] >= words.SIGNIFICANT:
        return LEVEL
    gap = values[row["alternative"]] - row["value"]
    return WORSE if (gap < 0) == (better == "lower") else BETTER


def _plain(label: Any) -> str:
    return label.replace("`", "") if isinstance(label, str) else ""
