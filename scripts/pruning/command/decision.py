"""Quality, size and speed of every pruned model, which one to take, what its layers keep and how it answers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pruning.analysis.tradeoff import COSTS, FRONT, variant_of
from pruning.command.configuration import BYTES, SAID
from pruning.command.own_data import ANSWERS
from pruning.config.default import DEFAULT
from pruning.core import artifacts, significance
from pruning.core.names import DENSE, Variant

CONFIDENCE = DEFAULT.experiment.confidence
TIMES = ("prefill", "decode")
OF_TEXT = ("perplexity", "bits_per_byte")
"""Measures, of which there is one, by which models are chosen: the second where their tokenizers differ."""

SHOWN = 5  # example answers
OUTCOMES = ("both right", "only the dense model right", "only the pruned model right", "both wrong")


class Choice(NamedTuple):
    """The model to take."""

    variant: Variant
    within: bool  # whether it is as good as was asked for
    loss: float
    """On the validation data, as `above`."""


class Measure(NamedTuple):
    """One thing that is measured of every model on the test data: columns `{key}`, `_low`, `_high`, `_p` of `rows`."""

    key: str
    title: str
    unit: str
    better: str  # `lower` or `higher`
    task: str = ""
    metric: str = ""  # whose rows of the table hold it; of `cut_off` the column of this name in the same rows


def measures(table: pd.DataFrame) -> list[Measure]:
    """What results/table1.csv holds of each model: `perplexity` (or `bits_per_byte`) and `kl` of the text by whose like
    models are chosen, the data's or right answers to its questions, and then `data_perplexity` of the data's; `answers`
    and `cut_off` of the questions; and one of each task of lm-eval's, by its name."""
    texts = {
        "perplexity": ("perplexity", "per token"),
        "bits_per_byte": ("bits per byte", ""),
        "kl": ("KL to dense", "nats per token"),
    }
    found, said = [], SAID in set(table["task"])
    for (task, metric), own in table.groupby(["task", "metric"], sort=False):
        if metric in texts:
            title, unit = texts[metric]
            key = f"data_{metric}" if said and task != SAID else metric
            of = " of your data" if key != metric else " of right answers" if said and metric in OF_TEXT else ""
            if key in [each.key for each in found]:  # a further text, of an edited configuration
                key, of = f"{task} {metric}", f" of {task}"
            found.append(Measure(key, f"{title}{of}", unit, "lower", task, metric))
        elif task == ANSWERS:
            found.append(Measure("answers", "right answers", "share", "higher", task, metric))
        else:
            key = f"{task} {metric}" if table.loc[table["task"] == task, "metric"].nunique() > 1 else task
            found.append(Measure(key, key, "share", "higher", task, metric))
        if task == ANSWERS and own["cut_off"].notna().any():
            found.append(Measure("cut_off", "cut off", "share", "lower", task, metric))
    return found


def rows(
    table: pd.DataFrame, validation: pd.DataFrame, tradeoff: pd.DataFrame, measured: Sequence[Measure]
) -> pd.DataFrame:
    """Return one row per model, the dense one first, of results/table1.csv, validation.csv and tradeoff.csv.

    Columns: `variant`; `removed`, the share of its units that is gone; `loss` on the validation data, as `above`, and
    `test_loss`, on the test data; `bytes` of its weights; `prefill` and `decode` (times the dense model's speed) with
    `_low` and `_high`; `front` (whether no other model is better and as small, or as fast); and for every measure m of
    the test data `m`, its interval `m_low` and `m_high`, and `m_p`, of the difference from the dense model (after Holm
    over all of the table; NaN where there is no test)."""
    places = {variant_of(row): row for row in tradeoff.to_dict("records")}
    judged = validation[validation["metric"].isin(OF_TEXT)]
    chosen_by = {variant_of(row): row["value"] for row in judged.to_dict("records")}
    text = next(each for each in measured if each.key in OF_TEXT)
    held = {(variant_of(row), row["task"], row["metric"]): row for row in table.to_dict("records")}
    found = []
    for variant in dict.fromkeys(variant for variant, *_ in held):
        place = places[variant]
        row = {"variant": variant, "loss": above(text, chosen_by[variant], chosen_by[DENSE]), "bytes": place["bytes"]}
        row["removed"] = held[variant, text.task, text.metric]["achieved_sparsity"]
        row |= {f"{part}{end}": place[f"{part}_speedup{end}"] for part in TIMES for end in ("", "_low", "_high")}
        row["front"] = FRONT in [place[f"{cost}_front"] for cost in COSTS]
        for each in measured:
            own = held[variant, each.task, each.metric]
            values = (own["value"], own["ci_low"], own["ci_high"], own["p_holm"])
            if each.key == "cut_off":  # a share of the same answers
                n = int(own["n"])
                values = (own["cut_off"], *significance.wilson(round(n * own["cut_off"]), n, CONFIDENCE), np.nan)
            row |= dict(zip((f"{each.key}{end}" for end in ("", "_low", "_high", "_p")), values, strict=True))
        found.append(row)
    made = pd.DataFrame(found)
    return made.assign(test_loss=[above(text, own, made[text.key].iloc[0]) for own in made[text.key]])


def above(text: Measure, own: float, dense: float) -> float:
    """Return how far a model's perplexity is above the dense one's, as a share of it; where texts are compared in bits
    per byte, perplexity of BYTES bytes, about a token: of a sure model's own answers a byte has hardly any bits, of
    which a share would say nothing."""
    return own / dense - 1 if text.key == "perplexity" else 2 ** (BYTES * (own - dense)) - 1


def without_answer(samples: pd.DataFrame, judge: str) -> list[str]:
    """How many generated answers hold nothing that could be judged, with one of them. samples: the dense model's."""
    lost = samples[samples["prediction"] == "[invalid]"]
    if lost.empty:
        return []
    shown = repr(lost["response"].iloc[0][-80:])
    return [f"--answer {judge}: {len(lost)} of {len(samples)} answers of the dense model do not have it, as {shown}."]


def choose(models: pd.DataFrame, tolerance: float, equal_cost: bool = False) -> Choice:
    """The most heavily pruned model, and of equally pruned ones the best, whose perplexity on the validation data
    is within `tolerance` (a share) of the dense model's; where there is none, or where all cost the same, the best of
    all."""
    pruned = [row for row in models.itertuples() if row.variant != DENSE]
    within = [] if equal_cost else [row for row in pruned if row.loss <= tolerance]
    best = min(within or pruned, key=lambda row: (-row.variant.sparsity if within else 0, row.loss))
    return Choice(best.variant, bool(best.loss <= tolerance), float(best.loss))


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
