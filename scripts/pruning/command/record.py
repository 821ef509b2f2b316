"""What the page to decide by shows beside the table: kept widths, and example answers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pruning.core import artifacts
from pruning.core.names import DENSE, Variant

SHOWN = 5
OUTCOMES = ("both right", "only the dense model right", "only the pruned model right", "both wrong")


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


def answers(
    out: Path, model: str, variant: Variant, tasks: Sequence[str], questions: Mapping[str, str]
) -> pd.DataFrame:
    """Return a row per question of the first of these tasks that models answered in words: `question`, `expected`, the
    answers of the `dense` and the `pruned` model, whether they are right (`dense_right`, `pruned_right`), and which of
    OUTCOMES that is; no rows where there is no such task.

    questions: prompt -> what is shown of it, of those that a chat format surrounds."""
    for task in tasks:
        paths = [out / each.samples(model, task) for each in (DENSE, variant)]
        if not all(path.is_file() for path in paths):
            continue
        frames = [artifacts.read_parquet(path, "samples") for path in paths]
        dense, own = (frame[frame["metric"] == frame["metric"].iloc[0]].dropna(subset=["response"]) for frame in frames)
        both = dense.merge(own, on=["item", "item_hash"], suffixes=("_dense", "_pruned"), validate="one_to_one")
        if len(both):
            asked = [questions.get(prompt, prompt) for prompt in both["prompt_dense"]]
            found = pd.DataFrame({"question": asked, "expected": both["target_dense"]})
            for who in ("dense", "pruned"):
                found = found.assign(**{who: both[f"response_{who}"], f"{who}_right": both[f"value_{who}"] == 1})
            wrong = 2 * ~found["dense_right"] + ~found["pruned_right"]
            return found.assign(outcome=wrong.map(dict(enumerate(OUTCOMES))))
    return pd.DataFrame(columns=["outcome"])


def outcomes(found: pd.DataFrame) -> dict[str, int]:
    """Return how many of the `answers` are of each of OUTCOMES."""
    return {words: int((found["outcome"] == words).sum()) for words in OUTCOMES}


def examples(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the first of the `answers` of each of OUTCOMES, filled up to SHOWN with the first of all."""
    first = found["outcome"].drop_duplicates().index
    taken = sorted(first.union(found.index.difference(first)[: SHOWN - len(first)]))
    return found.loc[taken].to_dict("records")
