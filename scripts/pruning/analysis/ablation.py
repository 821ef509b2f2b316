"""The ablation of RKU: every combination of objective, reduction, normalisation and allocation in one table."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.core import significance
from pruning.report.printing import Block, Cell, percent
from pruning.report.tables import clusters_of, same_items

CHOICES = ["objective", "reduction", "normalise", "allocate"]
REFERENCE = "rku"


def rows(samples: Mapping[str, pd.DataFrame], dense: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row a combination, compared with RKU's (where it is among them) by exact McNemar, Holm over the table; where
    items share templates by a t-test over these as well, with Holm of its own.

    Args: `samples` maps a combination to one metric's samples, sorted by item; `settings` as
    scripts/ablation.py documents. Accuracies are fractions. Raises InputError unless all have the same items."""
    same_items({"dense": dense, **samples}, settings["task"])
    found = {}
    for method, frame in samples.items():
        correct, n = int(frame["value"].sum()), len(frame)
        low, high = significance.wilson(correct, n, settings["confidence"])
        choice = dict(zip(CHOICES, method.split("-"), strict=True))
        row = {"calib": settings["calib"], **choice, "preset": settings["presets"].get(method, "")}
        found[method] = {**row, "n": n, "value": correct / n, "ci_low": low, "ci_high": high, "samples": frame}
    reference = next((row for row in found.values() if row["preset"] == REFERENCE), None)
    for row in found.values():
        if reference is not None and row is not reference:
            row["delta"] = row["value"] - reference["value"]
            pair = row["samples"]["value"], reference["samples"]["value"]
            row["discordant"], row["p_value"] = significance.mcnemar_exact(*pair)
            if (clusters := clusters_of(row["samples"])) is not None:
                row["design_effect"], row["p_cluster"] = significance.cluster_robust(*pair, clusters)
    columns = ["calib", *CHOICES, "preset", "n", "value", "ci_low", "ci_high", "delta", "discordant", "p_value"]
    columns += ["design_effect", "p_cluster"]
    table = pd.DataFrame(list(found.values())).reindex(columns=columns)
    table["p_holm"] = significance.holm(table["p_value"].tolist())
    table["p_cluster_holm"] = significance.holm(table["p_cluster"].tolist())
    return table.astype({"discordant": "Int64"})


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
