"""The ablation of RKU: every combination of its choices at one sparsity.

Settings: `models`; `rows` (combinations); `presets` (combination -> its name, if it has one); `calib`; `sparsity`
(whole per cent), `task`, `metric`, `title`, `confidence`. Files: `samples`, a template.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.analysis import ablation
from pruning.analysis.ablation import REFERENCE
from pruning.core import artifacts
from pruning.core.names import DENSE, Variant
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, Cell, percent


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    def outcomes(model: str, variant: Variant) -> pd.DataFrame:
        path = files.at("samples", model=model, variant=variant, task=settings["task"])
        samples = artifacts.read_parquet(path, "samples")
        return samples[samples["metric"] == settings["metric"]].sort_values("item", ignore_index=True)

    tables, blocks = [], []
    for model in settings["models"]:
        dense = outcomes(model, DENSE)
        variants = {row: Variant(settings["calib"], row, settings["sparsity"]) for row in settings["rows"]}
        samples = {row: outcomes(model, variant) for row, variant in variants.items()}
        table = ablation.rows(samples, dense, settings)
        blocks.append(block(model, table, dense["value"].mean(), settings))
        table.insert(0, "model", model)
        tables.append(
            table.assign(sparsity=settings["sparsity"] / 100, task=settings["task"], metric=settings["metric"])
        )
    title = "Ablation: RKU's choices, one by one"
    return printing.page("ablation", title, pd.concat(tables, ignore_index=True), blocks)


def block(model: str, table: pd.DataFrame, dense: float, settings: Mapping[str, Any]) -> Block:
    """One model's rows, printed from the best to the worst."""
    lines = []
    alpha, best = 1 - settings["confidence"], table["value"].max()
    clustered = table["p_cluster"].notna().any()
    table = table.assign(p_larger=table[["p_holm", "p_cluster_holm"] if clustered else ["p_holm"]].max(axis=1))
    for row in table.sort_values("value", ascending=False, kind="stable").itertuples():
        value, low, high = percent(row.value, row.ci_low, row.ci_high)
        p = "–" if pd.isna(row.p_larger) else "< 0.001" if row.p_larger < 0.001 else f"{row.p_larger:.3f}"
        marks = ("n.s.",) if row.p_larger > alpha else ()
        chosen = [row.reduction, row.normalise, row.allocate, f"`{row.preset}`" if row.preset else ""]
        cells = [Cell(text, "") for text in chosen]
        lines.append((row.objective, [*cells, Cell(value, f"[{low}, {high}]", row.value == best, marks), Cell(p, "")]))
    notes = [
        f"{settings['title']}, accuracy in per cent with Wilson's interval, n = {table['n'].iloc[0]:,} items, "
        f"{settings['sparsity']}% of the FFN neurons removed; the dense model: {percent(dense)[0]}. Best first.",
        "objective: whose gradient multiplies the activation, the energy of the final hidden states (before the final "
        "norm, or after it: energy_post) or the cross-entropy (ce). reduction over tokens, p = activation x gradient: "
        "net_abs |Σp|, abs Σ|p|, share Σ|p| over the layer's, by sample, sq Σp², grad_sq Σg² (gradient "
        "alone). normalise: within a layer, before layers compete (uniform "
        "allocation lets none compete, so that nothing changes there). allocate: the same share of every layer, or the "
        "best neurons of the whole model.",
        f"p: exact McNemar test against `{REFERENCE}`'s combination on the same items, Holm over the table; n.s. above "
        f"{alpha:.3g}. The best was found by looking at these items: its lead is not tested.",
    ]
    if clustered:
        notes[-1] += (
            " Items share templates: that test speaks of these stories with other numbers, a t-test over templates "
            "(with Holm of its own) of other stories of the same kind; p is the larger of the two."
        )
    columns = ["Reduction", "Normalise", "Allocate", "Preset", "Accuracy", f"p against {REFERENCE}"]
    title = f"Every combination of RKU's choices on `{model}`"
    return Block(model, title, [""], columns, lines, notes, head="Objective")
