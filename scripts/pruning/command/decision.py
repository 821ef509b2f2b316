"""One page to decide by: quality, size and speed of every pruned model, and which one to take."""

from dataclasses import dataclass

import pandas as pd

from pruning.core.names import Variant


@dataclass(frozen=True)
class Choice:
    variant: Variant
    within: bool
    """Whether it is as good as was asked for."""
    loss: float
    """Perplexity above the dense model's, as a share of it."""


def rows(table: pd.DataFrame, latency: pd.DataFrame) -> pd.DataFrame:
    """A row a model, the dense one first: `method`, `sparsity`, `tuning`, `perplexity` with `low` and `high`, `loss`,
    `removed` (of all parameters), `prefill` and `decode` (times the dense model's speed)."""
    speeds = latency.set_index("variant")[["prefill_speedup", "decode_speedup"]]
    dense = table[table["method"] == "dense"].iloc[0]["value"]
    found = []
    for row in table.itertuples():
        pruned = row.method != "dense"
        tuned = isinstance(row.tuning, str) and row.tuning != ""
        if not pruned and tuned:
            continue
        name = f"{row.calib}/{row.method}/{round(100 * row.sparsity)}" if pruned else "dense"
        speed = speeds.loc[name] if name in speeds.index else None
        found.append(
            {
                "method": row.method,
                "sparsity": round(100 * row.sparsity),
                "tuning": row.tuning if tuned else "",
                "calib": row.calib if pruned else "",
                "perplexity": row.value,
                "low": row.ci_low,
                "high": row.ci_high,
                "loss": row.value / dense - 1,
                "p": row.p_holm,
                "removed": row.params_removed,
                "prefill": speed["prefill_speedup"] if speed is not None else float("nan"),
                "decode": speed["decode_speedup"] if speed is not None else float("nan"),
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
        "| model | perplexity on your test data | above dense | parameters removed | prefill | decoding |",
        "|---|---|---|---|---|---|",
    ]
    for row in models.itertuples():
        name = (
            "dense"
            if row.method == "dense"
            else f"{row.method}, {row.sparsity}%" + (", recovered" if row.tuning else "")
        )
        mark = "**" if _is(row, choice.variant) else ""
        differs = " †" if row.p < 0.05 else ""
        speed = [f"{value:.2f}x" if value == value else "" for value in (row.prefill, row.decode)]
        value = f"{row.perplexity:.2f} [{row.low:.2f}, {row.high:.2f}]{differs}"
        cells = [f"{mark}{name}{mark}", value, f"{row.loss:+.1%}", f"{row.removed:.1%}", *speed]
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
            "* Intervals are 95%, of the choice of test text. Speeds are of the same shapes with random weights, here.",
            f"* † differs from {reference} at the same sparsity (paired test over windows, p < 0.05 after Holm).",
            "* Perplexity is not accuracy: before you rely on the model, ask it what you will ask it.",
            "",
        ]
    )


def _is(row, variant: Variant) -> bool:
    return (row.method, row.sparsity, row.tuning or None) == (variant.method, variant.sparsity, variant.tuning)
