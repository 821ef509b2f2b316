"""Generated texts of the dense and the pruned models side by side, as tidy rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pruning.core.errors import InputError

DENSE = "dense"
COPIED = ["tokens", "finish", "repetition", "final_loop", "format_failure", "answer", "correct", "text", "prompt"]
COLUMNS = ["model", "calib", "method", "sparsity", "item", *COPIED[:-3], "target", *COPIED[-3:]]


def table5_rows(
    model: str, cases: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Any]
) -> pd.DataFrame:
    """COLUMNS of one model's cases, item by item: dense, then the methods in their order; `sparsity` as a fraction
    (0: dense), `target` the right answer.

    Args: `cases` maps a method, or DENSE, to the `cases` of its cases.json.
    Raises InputError if two methods were given other items or prompts."""
    methods = [DENSE] + [method for method in settings["methods"] if method != DENSE]
    asked = {
        method: [(case["item"], case["prompt"], case["target_answer"]) for case in cases[method]] for method in methods
    }
    for method in methods[1:]:
        if asked[method] != asked[methods[0]]:
            raise InputError(
                f"cases: {model}, {methods[0]} and {method} were given different items or prompts; make both anew"
            )
    rows = []
    for number in range(len(asked[methods[0]])):
        for method in methods:
            case = cases[method][number]
            sparsity = 0.0 if method == DENSE else settings["sparsity"] / 100
            row = {"model": model, "calib": settings["calib"], "method": method, "sparsity": sparsity}
            row |= {"item": case["item"], "target": case["target_answer"], **{name: case[name] for name in COPIED}}
            rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """A row a method, over its items: `n`, how many `right`, `wrong`, without an answer in due form (`none`), ended by
    themselves (`stopped`), and the means of `tokens`, `repetition` and `final_loop`."""
    counted = frame.assign(
        n=1,
        right=frame["correct"],
        none=frame["format_failure"],
        wrong=~frame["correct"] & ~frame["format_failure"],
        stopped=frame["finish"] == "stop",
    )
    how = dict.fromkeys(["n", "right", "wrong", "none", "stopped"], "sum")
    how |= dict.fromkeys(["tokens", "repetition", "final_loop"], "mean")
    return counted.groupby("method", sort=False, as_index=False).agg(how)
