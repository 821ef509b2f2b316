"""Prune, or take the dense model in fewer bits? Files of both, compared at equal bytes (`--against`)."""

from typing import Any

import pandas as pd

from pruning.command.decision import Measure
from pruning.command.words import Against, name, value
from pruning.core.names import Variant, percent

HEADS = ["File", "MB", "{measure}", "Best dense file that is not larger", "p"]


def read(validation: pd.DataFrame, test: pd.DataFrame, taken: Variant, measure: Measure) -> Against:
    """Return the verdict by the validation data's perplexity, and the test data's table of one measure.

    validation, test: results/validation-bytes.csv and results/table1-bytes.csv. taken: the model to take; its
    recovery's rows are compared with those of equally recovered models."""
    tuned = f"@{taken.tuning}" if taken.tuning else ""
    of_column = validation[validation["column"] == f"own_validation{tuned}"]
    of = of_column.set_index("label")["value"]
    own = [row for row in of_column.to_dict("records") if variant_of(row) == taken]
    lost = {kind_of(row): row["alternative"] for row in own if _beaten(row, of)}
    won = [kind_of(row) for row in own if not _beaten(row, of)]
    shown = test[test["column"] == f"{measure.task}{tuned}"]
    lines = [
        [
            *(_plain(row["label"]), f"{row['bytes'] / 1e6:,.1f}"),
            f"{value(measure, row['value'])} [{value(measure, row['ci_low'])}, {value(measure, row['ci_high'])}]",
            *(_plain(row["alternative"]), _p_value(row["alternative_p_holm"])),
        ]
        for row in shown.astype({"alternative": object}).to_dict("records")
    ]
    heads = [head.format(measure=measure.title.capitalize()) for head in HEADS]
    return Against(bool(won), _said(name(taken), won, lost), heads, lines)


def variant_of(row: dict[str, Any]) -> Variant:
    """Return the model of which a row's file is made; of the dense model's none that is pruned so."""
    tuning = None if pd.isna(row["tuning"]) else row["tuning"]
    return Variant(row["calib"], row["method"], int(percent(row["sparsity"])), tuning)


def kind_of(row: dict[str, Any]) -> str:
    return "unquantised" if pd.isna(row["type"]) else row["type"].upper()


def _beaten(row: dict[str, Any], of: pd.Series) -> bool:
    """Whether a dense file that is not larger has less perplexity."""
    return isinstance(row["alternative"], str) and bool(of[row["alternative"]] < row["value"])


def _said(taken: str, won: list[str], lost: dict[str, str]) -> str:
    worse = "; ".join(f"as {kind} it is worse than {_plain(other)}" for kind, other in lost.items())
    if not lost:
        return f"{taken} is better than every file of the dense model that is not larger, in every type."
    if not won:
        return f"A file of the dense model that is not larger is better than {taken} in every type: {worse}."
    better = f"{taken} is better than every file of the dense model that is not larger as {', '.join(won)}"
    return f"{better}; {worse}."


def _p_value(p: float) -> str:
    return "" if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _plain(label: Any) -> str:
    return label.replace("`", "") if isinstance(label, str) else ""
