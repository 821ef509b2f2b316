"""One page to decide by: quality, size and speed of every pruned model, and which one to take."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from pruning.analysis.tradeoff import COSTS, FRONT, variant_of
from pruning.config.budgets import TIMED
from pruning.core.names import DENSE, Variant


class Choice(NamedTuple):
    """The model to take."""

    variant: Variant
    within: bool
    """Whether it is as good as was asked for."""
    loss: float
    """Perplexity above the dense model's, as a share of it."""


def rows(table: pd.DataFrame, tradeoff: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, the dense one first, of results/table1.csv and results/tradeoff.csv.

    Columns: `variant`, `perplexity` with `low` and `high`, `loss` (above the dense model's, as a share of it), `p`,
    `bytes` of its weights, `prefill` and `decode` (times the dense model's speed), `front` (whether no other model is
    better and as small, or as fast)."""
    measured = {variant_of(row): row for row in tradeoff.to_dict("records")}
    dense = table[table["method"] == "dense"].iloc[0]["value"]
    found = []
    for row in table.to_dict("records"):
        own = measured[variant_of(row)]
        found.append(
            {
                "variant": variant_of(row),
                **{"perplexity": row["value"], "low": row["ci_low"], "high": row["ci_high"]},
                **{"loss": row["value"] / dense - 1, "p": row["p_holm"], "bytes": own["bytes"]},
                **{"prefill": own["prefill_speedup"], "decode": own["decode_speedup"]},
                "front": FRONT in [own[f"{cost}_front"] for cost in COSTS],
            }
        )
    return pd.DataFrame(found)


def choose(models: pd.DataFrame, tolerance: float, equal_cost: bool = False) -> Choice:
    """The most heavily pruned model, and of equally pruned ones the best, whose perplexity is within `tolerance` (a
    share) of the dense model's; where there is none, or where all cost the same, the best of all."""
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
            "Perplexity on your test data (lower is better), size, and speed here, against the dense model:",
            "",
            "| model | perplexity | above dense | weights | prefill | decoding | |",
            "|---|---|---|---|---|---|---|",
            *(_line(row, row.variant == choice.variant, models["bytes"].iloc[0]) for row in models.itertuples()),
            "",
            f"**Take {_name(choice.variant, ' at ')}**: {why}. It lies in `{folder}`.",
            "",
            "* Intervals are 95%, of the choice of test text. Speeds are of these very models, here, against the dense "
            "one's (results/tradeoff.md has their intervals; figure: results/figures/tradeoff.png).",
            "* ✓: every model that is better is clearly larger or slower than this one.",
            f"* † differs from {reference} at {'equal cost' if budgets else 'the same sparsity'} (paired test over "
            "windows, p < 0.05 after Holm).",
            *(f"* {note}" for note in notes),
            "* Perplexity is not accuracy: before you rely on the model, ask it what you will ask it.",
            "",
        ]
    )


def _line(row: Any, taken: bool, dense_bytes: float) -> str:
    """A row of the page's table. row: of `rows`; taken: whether it is the model to take."""
    name = f"**{_name(row.variant)}**" if taken else _name(row.variant)
    value = f"{row.perplexity:.2f} [{row.low:.2f}, {row.high:.2f}]{' †' if row.p < 0.05 else ''}"
    size = f"{row.bytes / 1e6:,.1f} MB ({row.bytes / dense_bytes:.0%})"
    speed = [f"{row.prefill:.2f}x", f"{row.decode:.2f}x", "✓" if row.front else ""]
    return f"| {' | '.join([name, value, f'{row.loss:+.1%}', size, *speed])} |"


def _name(variant: Variant, between: str = ", ") -> str:
    """What a page calls a model."""
    if variant == DENSE:
        return "dense"
    return f"{variant.method}{between}{variant.sparsity}%" + (", recovered" if variant.tuning else "")
