"""One page to decide by: quality, size and speed of every pruned model, and which one to take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pruning.analysis.tradeoff import COSTS, FRONT, variant_of
from pruning.config.budgets import TIMED
from pruning.core.names import Variant


@dataclass(frozen=True)
class Choice:
    variant: Variant
    within: bool
    """Whether it is as good as was asked for."""
    loss: float
    """Perplexity above the dense model's, as a share of it."""


def rows(table: pd.DataFrame, tradeoff: pd.DataFrame) -> pd.DataFrame:
    """A row a model, the dense one first: `method`, `sparsity`, `tuning`, `perplexity` with `low` and `high`, `loss`,
    `bytes` of its weights, `prefill` and `decode` (times the dense model's speed),
    `front` (whether no other model is better and as small, or as fast)."""
    measured = {str(variant_of(row)): row for row in tradeoff.to_dict("records")}
    dense = table[table["method"] == "dense"].iloc[0]["value"]
    found = []
    for row in table.to_dict("records"):
        variant = variant_of(row)
        own = measured[str(variant)]
        found.append(
            {
                "method": variant.method,
                "sparsity": variant.sparsity,
                "tuning": variant.tuning or "",
                "calib": variant.calib or "",
                "perplexity": row["value"],
                "low": row["ci_low"],
                "high": row["ci_high"],
                "loss": row["value"] / dense - 1,
                "p": row["p_holm"],
                "bytes": own["bytes"],
                "prefill": own["prefill_speedup"],
                "decode": own["decode_speedup"],
                "front": FRONT in [own[f"{cost}_front"] for cost in COSTS],
            }
        )
    return pd.DataFrame(found)


def choose(models: pd.DataFrame, tolerance: float, equal_cost: bool = False) -> Choice:
    """The most heavily pruned model, and of equally pruned ones the best, whose perplexity is within `tolerance` (a
    share) of the dense model's; where there is none, or where all cost the same, the best of all."""
    pruned = models[models["method"] != "dense"]
    within = pruned[pruned["loss"] <= tolerance]
    if len(within) and not equal_cost:
        best = within.sort_values(["sparsity", "loss"], ascending=[False, True]).iloc[0]
    else:
        best = pruned.sort_values("loss").iloc[0]
    variant = Variant(best["calib"], best["method"], int(best["sparsity"]), best["tuning"] or None)
    return Choice(variant, bool(best["loss"] <= tolerance), float(best["loss"]))


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
        lines += [
            "",
            "Times were measured in turn with the dense model; their whole interval is within the budget.",
        ]
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
    choice: Choice,
    tolerance: float,
    reference: str,
    folder: str,
    vocabulary: int,
    budgets: Mapping[str, Mapping[str, Any]] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Markdown. vocabulary: words that the model chooses from, what guessing has as its perplexity.
    budgets: where one was asked for, what scripts/budget.py found, by method. notes: what defaults.py says."""
    lines = [
        "# Which model to take",
        "",
        *(no_better_than_guessing(models, vocabulary)),
        *(at_equal_cost(budgets) if budgets else []),
        "Perplexity on your test data (lower is better), size, and speed here, against the dense model:",
        "",
        "| model | perplexity | above dense | weights | prefill | decoding | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in models.itertuples():
        name = (
            "dense"
            if row.method == "dense"
            else f"{row.method}, {row.sparsity}%" + (", recovered" if row.tuning else "")
        )
        mark = "**" if _is(row, choice.variant) else ""
        differs = " †" if row.p < 0.05 else ""
        size = f"{row.bytes / 1e6:,.1f} MB ({row.bytes / models['bytes'].iloc[0]:.0%})"
        cost = [size, f"{row.prefill:.2f}x", f"{row.decode:.2f}x", "✓" if row.front else ""]
        value = f"{row.perplexity:.2f} [{row.low:.2f}, {row.high:.2f}]{differs}"
        cells = [f"{mark}{name}{mark}", value, f"{row.loss:+.1%}", *cost]
        lines.append(f"| {' | '.join(cells)} |")
    same = "equal cost" if budgets else "the same sparsity"
    what = f"{choice.variant.method} at {choice.variant.sparsity}%" + (", recovered" if choice.variant.tuning else "")
    if budgets:
        limit = "at most" if choice.within else "which is more than"
        why = f"of the models that meet the budget it is the best: {choice.loss:+.1%}, {limit} {tolerance:.0%}"
    elif choice.within:
        why = f"of the models whose perplexity is at most {tolerance:.0%} above the dense model's it is the smallest"
    else:
        why = f"no model is within {tolerance:.0%} of the dense model; this one is the nearest, {choice.loss:+.0%}"
    return "\n".join(
        [
            *lines,
            "",
            f"**Take {what}**: {why}. It lies in `{folder}`.",
            "",
            "* Intervals are 95%, of the choice of test text. Speeds are of these very models, here, against the dense "
            "one's (results/tradeoff.md has their intervals; figure: results/figures/tradeoff.png).",
            "* ✓: every model that is better is clearly larger or slower than this one.",
            f"* † differs from {reference} at {same} (paired test over windows, p < 0.05 after Holm).",
            *(f"* {note}" for note in notes),
            "* Perplexity is not accuracy: before you rely on the model, ask it what you will ask it.",
            "",
        ]
    )


def _is(row, variant: Variant) -> bool:
    return (row.method, row.sparsity, row.tuning or None) == (variant.method, variant.sparsity, variant.tuning)
