"""Prune, or take the dense model in fewer bits? Files of both, compared at equal bytes (`--against`)."""

from typing import Any

import pandas as pd

from pruning.analysis.tradeoff import variant_of
from pruning.command.decision import Measure
from pruning.command.words import SIGNIFICANT, Against, name, value
from pruning.core import significance
from pruning.core.names import Variant

HEADS = ["File", "MB", "{measure}", "Best dense file that is not larger", "p"]

SMALLER = "smaller than every dense file"
BETTER = "better than the best dense file that is not larger"
LEVEL = "not significantly different from the best dense file that is not larger"
WORSE = "worse"
OUTCOMES = (BETTER, SMALLER, LEVEL, WORSE)


def read(validation: pd.DataFrame, test: pd.DataFrame, taken: Variant, measure: Measure) -> Against:
    """Return the verdict by the validation data's perplexity, and the test data's table of one measure.

    validation, test: results/validation-bytes.csv and results/table1-bytes.csv. taken: the model to take; its
    recovery's rows are compared with those of equally recovered models."""
    tuned = f"@{taken.tuning}" if taken.tuning else ""
    of_column = validation[validation["column"] == f"own_validation{tuned}"]
    of = of_column.set_index("label")["value"]
    found: dict[str, list[str]] = {words: [] for words in OUTCOMES}
    for row in of_column.to_dict("records"):
        if variant_of(row) == taken:
            outcome = _outcome(row, of)
            than = f" (than {_plain(row['alternative'])})" if outcome == WORSE else ""
            found[outcome].append(f"{kind_of(row)}{than}")
    shown = test[test["column"] == f"{measure.task}{tuned}"]
    lines = []
    for row in shown.astype({"alternative": object}).to_dict("records"):
        own, low, high = (value(measure, row[key]) for key in ("value", "ci_low", "ci_high"))
        cells = [_plain(row["label"]), f"{row['bytes'] / 1e6:,.1f}", f"{own} [{low}, {high}]"]
        lines.append([*cells, _plain(row["alternative"]), significance.shown(row["alternative_p_holm"])])
    heads = [head.format(measure=measure.title.capitalize()) for head in HEADS]
    said = "; ".join(f"{words} as {', '.join(kinds)}" for words, kinds in found.items() if kinds)
    wins = any(kinds for words, kinds in found.items() if words != WORSE)
    return Against(wins, f"{name(taken)} is {said}.", heads, lines)


def kind_of(row: dict[str, Any]) -> str:
    return "unquantised" if pd.isna(row["type"]) else row["type"].upper()


def _outcome(row: dict[str, Any], of: pd.Series) -> str:
    """Return which of OUTCOMES a pruned file is; of: label -> perplexity."""
    if not isinstance(row["alternative"], str):
        return SMALLER
    if row["alternative_p_holm"] >= SIGNIFICANT:
        return LEVEL
    return WORSE if of[row["alternative"]] < row["value"] else BETTER


def _plain(label: Any) -> str:
    return label.replace("`", "") if isinstance(label, str) else ""
