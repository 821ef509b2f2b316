"""Quality, size and speed of every pruned model, and which one to take."""

import math
from typing import NamedTuple

import pandas as pd

from pruning.analysis.tradeoff import COSTS, FRONT, variant_of
from pruning.core.names import DENSE, Variant


class Measure(NamedTuple):
    """A measure of quality: columns `{key}`, `{key}_low`, `{key}_high`, `{key}_p` of `rows`."""

    key: str
    title: str
    unit: str
    better: str  # "lower" or "higher"


TIMES = ("prefill", "decode")
MEASURES = [Measure("perplexity", "Perplexity", "", "lower")]


class Choice(NamedTuple):
    """The model to take."""

    variant: Variant
    within: bool
    """Whether it is as good as was asked for."""
    loss: float
    """Perplexity above the dense model's, as a share of it."""


def rows(table: pd.DataFrame, tradeoff: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, the dense one first, of results/table1.csv and results/tradeoff.csv.

    Columns: `variant`; of every measure m `m`, `m_low` and `m_high` (95% interval), `m_p` (against the dense model, NaN
    where it was not tested); `loss` (perplexity above the dense model's, as a share of it); `bytes` of its weights;
    `prefill` and `decode` (times the dense model's speed) with `_low` and `_high`; `front` (whether no other model is
    better and as small, or as fast)."""
    measured = {variant_of(row): row for row in tradeoff.to_dict("records")}
    dense = table[table["method"] == "dense"].iloc[0]["value"]
    found = []
    for row in table.to_dict("records"):
        own = measured[variant_of(row)]
        found.append(
            {
                "variant": variant_of(row),
                **{"perplexity": row["value"], "perplexity_low": row["ci_low"], "perplexity_high": row["ci_high"]},
                **{"perplexity_p": math.nan, "loss": row["value"] / dense - 1, "bytes": own["bytes"]},
                **{f"{part}{end}": own[f"{part}_speedup{end}"] for part in TIMES for end in ("", "_low", "_high")},
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
