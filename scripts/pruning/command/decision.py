"""One page to decide by: quality, size and speed of every pruned model, and which one to take."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pruning.analysis.tradeoff import COSTS, FRONT, variant_of
from pruning.command.own_data import ANSWERS
from pruning.config.budgets import TIMED
from pruning.config.default import DEFAULT
from pruning.core import significance
from pruning.core.names import DENSE, Variant

NO_ANSWERS = "* Perplexity is not accuracy: before you rely on the model, ask it what you will ask it."
CONFIDENCE = DEFAULT.experiment.confidence


class Choice(NamedTuple):
    """The model to take."""

    variant: Variant
    within: bool
    """Whether it is as good as was asked for."""
    loss: float
    """Perplexity on the validation data above the dense model's, as a share of it."""


class Measure(NamedTuple):
    """One thing that is measured of every model on the test data: columns `{key}`, `_low`, `_high`, `_p` of `rows`."""

    key: str
    title: str
    unit: str
    better: str
    """`lower` or `higher`."""
    task: str
    metric: str
    """Whose rows of the table hold it; of `cut_off` the column of this name in the same rows."""


def measures(table: pd.DataFrame) -> list[Measure]:
    """What results/table1.csv holds of each model: `perplexity`, `kl`, `answers` and `cut_off` of the user's data, and
    one of each task of lm-eval's, by its name."""
    found = []
    for (task, metric), own in table.groupby(["task", "metric"], sort=False):
        if metric == "perplexity":
            found.append(Measure(metric, "perplexity", "per token", "lower", task, metric))
        elif metric == "kl":
            found.append(Measure(metric, "KL to dense", "nats per token", "lower", task, metric))
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

    Columns: `variant`; `loss`: perplexity above the dense model's, as a share of it, on the validation data, and
    `test_loss`, on the test data; `bytes` of its weights, `prefill` and `decode` (times the dense model's speed),
    `front` (whether no other model is better and as small, or as fast); and for every measure m of the test data `m`,
    its interval `m_low` and `m_high`, and `m_p`, of the difference from the dense model (after Holm over all of the
    table; NaN where there is no test)."""
    places = {variant_of(row): row for row in tradeoff.to_dict("records")}
    chosen_by = {variant_of(row): row["value"] for row in validation.to_dict("records")}
    held = {(variant_of(row), row["task"], row["metric"]): row for row in table.to_dict("records")}
    found = []
    for variant in dict.fromkeys(variant for variant, *_ in held):
        place = places[variant]
        row = {"variant": variant, "loss": chosen_by[variant] / chosen_by[DENSE] - 1, "bytes": place["bytes"]}
        row |= {"prefill": place["prefill_speedup"], "decode": place["decode_speedup"]}
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
    return made.assign(test_loss=made["perplexity"] / made["perplexity"].iloc[0] - 1)


def without_answer(samples: pd.DataFrame, judge: str) -> list[str]:
    """How many generated answers hold nothing that could be judged, with one of them. samples: the dense model's."""
    lost = samples[samples["prediction"] == "[invalid]"]
    if lost.empty:
        return []
    shown = repr(lost["response"].iloc[0][-80:])
    return [f"--answer {judge}: {len(lost)} of {len(samples)} answers of the dense model do not have it, as {shown}."]


def examples(dense: pd.DataFrame, pruned: pd.DataFrame, count: int = 5) -> list[dict[str, Any]]:
    """Questions with the answers of two models: `question`, `expected`, `dense`, `pruned` (texts), `dense_right` and
    `pruned_right`. Those that one of the two alone answers right come first.

    dense, pruned: samples of the task of the user's questions (docs/artefacts.md)."""
    both = dense.merge(pruned, on=["item", "item_hash", "metric"], suffixes=("_dense", "_pruned"))
    both = both.assign(same=both["value_dense"] == both["value_pruned"]).sort_values(["same", "item"], kind="stable")
    return [
        {
            **{"question": row.prompt_dense, "expected": row.target_dense},
            **{"dense": row.response_dense, "dense_right": bool(row.value_dense)},
            **{"pruned": row.response_pruned, "pruned_right": bool(row.value_pruned)},
        }
        for row in both.head(count).itertuples()
    ]


def choose(models: pd.DataFrame, tolerance: float, equal_cost: bool = False) -> Choice:
    """The most heavily pruned model, and of equally pruned ones the best, whose perplexity on the validation data
    is within `tolerance` (a share) of the dense model's; where there is none, or where all cost the same, the best of
    all."""
    pruned = [row for row in models.itertuples() if row.variant != DENSE]
    within = [row for row in pruned if row.loss <= tolerance]
    if within and not equal_cost:
        best = min(within, key=lambda row: (-row.variant.sparsity, row.loss))
    else:
        best = min(pruned, key=lambda row: row.loss)
    return Choice(best.variant, bool(best.loss <= tolerance), float(best.loss))


def amount(kind: str, value: float) -> str:
    """In words, of a cost as a budget names it."""
    if kind == "parameters":
        return f"{value:,.0f} parameters"
    if kind == "bytes":
        return f"{value / 1e6:,.2f} MB of weights"
    return f"{value:.3g} ms {'of prefill' if kind == 'prefill_ms' else 'a token'}"


def at_equal_cost(budgets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How the sparsities came about. budgets: what scripts/budget.py found, by method."""
    kind, asked, most, dense = (next(iter(budgets.values()))[key] for key in ("kind", "asked", "target", "dense"))
    lines = [
        f"The budget is {amount(kind, most)} (`{kind}={asked}`; the dense model: {amount(kind, dense)}). Each method "
        "removes the least, in whole per cent of the FFN neurons, that meets it: they are compared at equal cost.",
        "",
    ]
    for method, found in budgets.items():
        cost = found["cost"]
        interval = f" [{cost['low']:.3g}, {cost['high']:.3g}]" if cost["low"] < cost["high"] else ""
        share = f"{cost['value'] / found['dense']:.0%} of dense"
        lines.append(f"* {method}: {found['sparsity']}%, {amount(kind, cost['value'])}{interval}, {share}")
    if kind in TIMED:
        lines += ["", "Times were measured in turn with the dense model; their whole interval is within the budget."]
    return [*lines, ""]


def no_better_than_guessing(models: pd.DataFrame, vocabulary: int) -> list[str]:
    """A warning, where there is nothing that pruning could spoil."""
    dense = models["perplexity"].iloc[0]
    if dense < vocabulary:
        return []
    return [
        f"**The dense model does not know this text**: its perplexity is {dense:,.0f}, that of guessing among its "
        f"{vocabulary:,} words {vocabulary:,}. No comparison below means anything: look whether the weights are whole, "
        "and whether the data are in the form that the model was made for.",
        "",
    ]


def page(
    models: pd.DataFrame,
    measured: Sequence[Measure],
    choice: Choice,
    tolerance: float,
    folder: str,
    vocabulary: int,
    budgets: Mapping[str, Mapping[str, Any]] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Markdown. vocabulary: words that the model chooses from, what guessing has as its perplexity.
    budgets: where one was asked for, what scripts/budget.py found, by method. notes: what defaults.py says."""
    if budgets:
        limit = "at most" if choice.within else "which is more than"
        why = f"of the models that meet the budget it is the best: {choice.loss:+.1%}, {limit} {tolerance:.0%}"
    elif choice.within:
        why = f"of the models whose perplexity is at most {tolerance:.0%} above the dense model's it is the smallest"
    else:
        why = f"no model is within {tolerance:.0%} of the dense model; this one is the nearest, {choice.loss:+.0%}"
    return "\n".join(
        [
            "# Which model to take",
            "",
            *no_better_than_guessing(models, vocabulary),
            *(at_equal_cost(budgets) if budgets else []),
            "Quality on your test data, size, and speed here, against the dense model:",
            "",
            f"| model | {' | '.join(each.title for each in measured)} | weights | prefill | decoding | |",
            "|---" * (len(measured) + 5) + "|",
            *(_line(row, measured, choice.variant, models["bytes"].iloc[0]) for row in models.to_dict("records")),
            "",
            f"**Take {_name(choice.variant, ' at ')}**: {why}. It lies in `{folder}`.",
            "",
            "* The choice was made on other records, the validation data: there the model's perplexity is "
            f"{choice.loss:+.1%} above the dense model's, on the test data {_test_loss(models, choice):+.1%}.",
            f"* {'; '.join(f'{each.title}: {each.unit}, {each.better} is better' for each in measured)}.",
            "* Intervals are 95%, of the choice of test text. Speeds are of these very models, here, against the dense "
            "one's (results/tradeoff.md has their intervals; figure: results/figures/tradeoff.png).",
            "* ✓: every model that is better is clearly larger or slower than this one.",
            "* † differs from the dense model (paired tests, p < 0.05 after Holm).",
            *(f"* {note}" for note in notes),
            *([] if "answers" in models else [NO_ANSWERS]),
            "",
        ]
    )


def _test_loss(models: pd.DataFrame, choice: Choice) -> float:
    return next(row.test_loss for row in models.itertuples() if row.variant == choice.variant)


def _line(row: Mapping[str, Any], measured: Sequence[Measure], taken: Variant, dense_bytes: float) -> str:
    """A row of the page's table. row: of `rows`; taken: the model to take."""
    name = _name(row["variant"])
    cells = [f"**{name}**" if row["variant"] == taken else name]
    for each in measured:
        value, low, high = (_shown(row[f"{each.key}{end}"], each) for end in ("", "_low", "_high"))
        above = f", {row['test_loss']:+.1%}" if each.key == "perplexity" else ""
        cells.append(f"{value} [{low}, {high}]{above}{' †' if row[f'{each.key}_p'] < 0.05 else ''}")
    cells += [f"{row['bytes'] / 1e6:,.1f} MB ({row['bytes'] / dense_bytes:.0%})"]
    cells += [f"{row['prefill']:.2f}x", f"{row['decode']:.2f}x", "✓" if row["front"] else ""]
    return f"| {' | '.join(cells)} |"


def _shown(value: float, measure: Measure) -> str:
    if measure.unit == "share":
        return f"{value:.0%}"
    return f"{value:.3f}" if measure.key == "kl" else f"{value:.2f}"


def _name(variant: Variant, between: str = ", ") -> str:
    """What a page calls a model."""
    if variant == DENSE:
        return "dense"
    return f"{variant.method}{between}{variant.sparsity}%" + (", recovered" if variant.tuning else "")
