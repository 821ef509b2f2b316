"""One page to decide by: quality, size and speed of every pruned model, and which one to take."""

from dataclasses import dataclass

import pandas as pd

from pruning.analysis.tradeoff import COSTS, FRONT, variant_of
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


def choose(models: pd.DataFrame, tolerance: float) -> Choice:
    """The most heavily pruned model, and of equally pruned ones the best, whose perplexity is within `tolerance` (a
    share) of the dense model's; where there is none, the best of all."""
    pruned = models[models["method"] != "dense"]
    within = pruned[pruned["loss"] <= tolerance]
    best = (
        (within if len(within) else pruned)
        .sort_values(
            ["sparsity", "loss"] if len(within) else ["loss"], ascending=[False, True] if len(within) else [True]
        )
        .iloc[0]
    )
    variant = Variant(best["calib"], best["method"], int(best["sparsity"]), best["tuning"] or None)
    return Choice(variant, bool(len(within)), float(best["loss"]))


def page(models: pd.DataFrame, choice: Choice, tolerance: float, reference: str, folder: str) -> str:
    """Markdown."""
    lines = [
        "# Which model to take",
        "",
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
    what = f"{choice.variant.method} at {choice.variant.sparsity}%" + (", recovered" if choice.variant.tuning else "")
    if choice.within:
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
            f"* † differs from {reference} at the same sparsity (paired test over windows, p < 0.05 after Holm).",
            "* Perplexity is not accuracy: before you rely on the model, ask it what you will ask it.",
            "",
        ]
    )


def _is(row, variant: Variant) -> bool:
    return (row.method, row.sparsity, row.tuning or None) == (variant.method, variant.sparsity, variant.tuning)
