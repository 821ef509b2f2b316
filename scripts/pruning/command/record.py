"""What the page to decide by shows beside the table: kept widths, and example answers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pruning.core import artifacts
from pruning.core.names import DENSE, Variant

SHOWN = 5
OUTCOMES = ("both right", "only the dense model right", "only the pruned model right", "both wrong")


class Example(NamedTuple):
    """A test question with the answers of the dense model and of the one to take, and whether they are right."""

    question: str
    expected: str
    dense: str
    pruned: str
    dense_right: bool
    pruned_right: bool


def widths(out: Path, model: str, variants: Iterable[Variant]) -> dict[Variant, list[int]]:
    """Return the kept neurons of each layer, the dense model's first, of models that were not recovered as well.

    out: the run's folder; model: its alias."""
    own = dict.fromkeys([DENSE, *(variant for variant in variants if not variant.tuning)])
    manifests = {variant: out / variant.manifest(model) for variant in own}
    return {
        variant: artifacts.read_json(path, "base", "compact")["widths"]
        for variant, path in manifests.items()
        if path.is_file()
    }


def answers(out: Path, model: str, variant: Variant, tasks: Sequence[str]) -> pd.DataFrame:
    """Return a row per question of the first of these tasks that models answered in words: `prompt`, `target`, and of
    the dense model and the pruned one `response_…` and `value_…` (0 or 1); no rows where there is no such task."""
    for task in tasks:
        paths = [out / each.samples(model, task) for each in (DENSE, variant)]
        if not all(path.is_file() for path in paths):
            continue
        frames = [artifacts.read_parquet(path, "samples") for path in paths]
        dense, own = (frame[frame["metric"] == frame["metric"].iloc[0]].dropna(subset=["response"]) for frame in frames)
        both = dense.merge(own, on=["item", "item_hash"], suffixes=("_dense", "_pruned"), validate="one_to_one")
        if len(both):
            return both.rename(columns={"prompt_dense": "prompt", "target_dense": "target"})
    return pd.DataFrame()


def outcomes(found: pd.DataFrame) -> dict[str, int]:
    """Return how many of the `answers` are of each kind (OUTCOMES)."""
    return {words: int((_kinds(found) == kind).sum()) for kind, words in enumerate(OUTCOMES)} if len(found) else {}


def examples(found: pd.DataFrame, questions: Mapping[str, str]) -> list[Example]:
    """Return the first of the `answers` of each kind (OUTCOMES), filled up to SHOWN with the first of all.

    questions: prompt -> what is shown of it, of those that a chat format surrounds."""
    if not len(found):
        return []
    first = _kinds(found).drop_duplicates().index
    taken = sorted(first.union(found.index.difference(first)[: SHOWN - len(first)]))
    return [
        Example(
            *(questions.get(row["prompt"], row["prompt"]), row["target"]),
            *(row["response_dense"], row["response_pruned"]),
            *(bool(row["value_dense"] == 1), bool(row["value_pruned"] == 1)),
        )
        for row in found.loc[taken].to_dict("records")
    ]


def _kinds(found: pd.DataFrame) -> pd.Series:
    """Which of OUTCOMES each answer is."""
    return 2 * (found["value_dense"] != 1) + (found["value_pruned"] != 1)
