"""The ablation of RKU: every combination of objective, reduction, normalisation and allocation in one table."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.analysis.comparison import clusters_of, same_items
from pruning.core import significance

CHOICES = ["objective", "reduction", "normalise", "allocate"]
REFERENCE = "rku"


def rows(samples: Mapping[str, pd.DataFrame], dense: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row a combination, compared with RKU's (where it is among them) by exact McNemar, Holm over the table; where
    items share templates by a t-test over these as well, with Holm of its own.

    Args: `samples` maps a combination to one metric's samples, sorted by item; `settings` as
    report/tables/ablation.py documents. Accuracies are fractions. Raises InputError unless all have the same items."""
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
