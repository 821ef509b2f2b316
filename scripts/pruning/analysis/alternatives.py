"""Pruned models against what one could have taken in their place: the dense model in fewer bits, or a smaller one.

Rows are models as GGUF files. Alternatives are those that are not pruned: the dense model and siblings, in any type.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from pruning.analysis import comparison, tradeoff
from pruning.core import significance
from pruning.core.errors import InputError
from pruning.core.names import DENSE, Variant
from pruning.models.gguf import BLOCK

Row = tuple[str, Variant]  # A model's alias, and its variant


def rows(
    model: str,
    candidates: Mapping[Row, Mapping[str, Any]],
    samples: Callable[[str, Variant], pd.DataFrame],
    entry: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Return one row per candidate, with its quality on a task and its paired test against the dense model, and their
    outcomes in the same order.

    Args: candidates: with the columns of their costs (`bytes`, …), the dense model and all others; `entry`: of the
    task, as report/tables/results.py has it, whose first metric counts. `delta` is the row's value minus the dense
    model's, p_holm Holm's adjustment over all rows; where items share templates p_value is the larger one of the two
    tests.
    Raises InputError if models were scored on other items; siblings may have other prompts on the same ones."""
    task, metric, kind = entry["task"], entry["metrics"][0], entry["kind"]
    outcomes = [
        comparison.outcomes_of(samples(*row), "/".join(map(str, row)), task, metric, kind) for row in candidates
    ]
    _check_items(model, list(candidates), outcomes, task, kind, (entry.get("stop_early") or {}).get("after"))
    dense, found = outcomes[list(candidates).index((model, DENSE))], []
    for ((alias, variant), costs), own in zip(candidates.items(), outcomes, strict=True):
        row = {"model": model, "of": alias, **vars(variant), "task": task, "metric": metric}
        row |= comparison.measure(own, kind, settings) | costs
        if (alias, variant) != (model, DENSE):
            row |= _test(own, dense, kind, settings)
        found.append(row)
    frame = pd.DataFrame(found).assign(sparsity=[row["sparsity"] / 100 for row in found])
    return frame.assign(p_holm=significance.holm(frame["p_value"])), outcomes


def against_best(
    frame: pd.DataFrame, outcomes: Sequence[pd.DataFrame], cost: str, kind: str, settings: Mapping[str, Any]
) -> pd.DataFrame:
    """Return the rows with their place on the front of a cost (`front`: tradeoff.places), and with each pruned one's
    paired test against the best alternative that does not cost more: `alternative` (its row's number; none where every
    alternative costs more) and `alternative_` with `delta`, `delta_low`, `delta_high`, `p_value` and `p_holm`, over the
    pruned rows.

    Not more: smaller, or larger by less than a hundredth; faster, or of a time whose interval reaches into the row's.
    The best is read off the very items of the test, which favours the alternative."""
    least, most = tradeoff.cost_ends(frame, cost)
    sign, found = 1 if kind == "accuracy" else -1, []
    others = [number for number, calib in enumerate(frame["calib"]) if pd.isna(calib)]
    for number, calib in enumerate(frame["calib"]):
        fitting = [] if pd.isna(calib) else [other for other in others if least[other] <= most[number]]
        best = max(fitting, key=lambda other: sign * frame["value"].iloc[other], default=None)
        tested = {} if best is None else _test(outcomes[number], outcomes[best], kind, settings)
        found.append({"alternative": best} | {f"alternative_{key}": value for key, value in tested.items()})
    columns = ["alternative", *(f"alternative_{key}" for key in TESTED)]
    made = pd.DataFrame(found, columns=columns, index=frame.index)
    made["alternative_p_holm"] = significance.holm(made["alternative_p_value"])
    front = tradeoff.places(frame, cost, kind == "accuracy")
    return frame.assign(cost=cost, **{name: made[name] for name in made}, front=front)


def equal_answers(theirs: pd.DataFrame, ours: pd.DataFrame) -> tuple[int, float]:
    """Return the number of items that two outcomes share, in question and prompt, and the share of these with the same
    answer."""
    both = theirs.merge(ours, on=["item", "item_hash"], suffixes=("_a", "_b"), validate="one_to_one")
    return len(both), float((both["prediction_a"] == both["prediction_b"]).mean()) if len(both) else float("nan")


def falls_back(kind: str | None, stored: str) -> bool:
    """Return whether a file of blocks of 256 values has another kind in most matrices (`stored`): their rows are no
    whole blocks."""
    return isinstance(kind, str) and BLOCK[kind] == 256 and not stored.endswith(("_K", "_XS"))


TESTED = ("delta", "delta_low", "delta_high", "p_value")


def _test(ours: pd.DataFrame, other: pd.DataFrame, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """TESTED of two outcomes on the same items, by the p-value that decides."""
    found = comparison.compare(ours, other, kind, settings)
    clusters = comparison.clusters_of(ours) if kind == "accuracy" else None
    row = {**found, "clusters": None if clusters is None else clusters.nunique()}
    found["p_value"] = comparison.deciding_p(row, ("p_value", "p_cluster"))
    return {key: found[key] for key in TESTED}


def _check_items(
    model: str, candidates: Sequence[Row], outcomes: Sequence[pd.DataFrame], task: str, kind: str, stop: int | None
) -> None:
    """Raise InputError unless a model's rows were scored on the same items, and siblings on the same texts."""
    named = {f"{alias}/{variant}": frame for (alias, variant), frame in zip(candidates, outcomes, strict=True)}
    own = {name: frame for name, frame in named.items() if name.startswith(f"{model}/")}
    comparison.same_items(own, task, stop)
    dense = own[f"{model}/{DENSE}"]
    for name, frame in named.items():
        if name in own:
            continue
        if kind != "accuracy" and set(frame["item_hash"]) != set(dense["item_hash"]):
            raise InputError(
                f"{task}: {name} splits the text into other tokens than {model}, and perplexities per token do not "
                f"compare: leave the task or the sibling out of the table"
            )
        by_text = [each if kind != "accuracy" else each.assign(item_hash=each["target"]) for each in (dense, frame)]
        comparison.same_items(dict(zip((f"{model}/{DENSE}", name), by_text, strict=True)), task, stop)
