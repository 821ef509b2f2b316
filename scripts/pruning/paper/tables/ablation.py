"""The ablation of RKU: every combination of its objective, reduction, normalisation and allocation at one sparsity.

Settings: `models`; `rows` (combinations); `presets` (combination -> its name, if it has one); `calib`; `sparsity`
(whole per cent), `task`, `metric`, `title`, `confidence`. Files: `samples`, a template.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.analysis import comparison
from pruning.core import names, significance
from pruning.core.names import DENSE, Variant
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block

CHOICES = ["objective", "reduction", "normalise", "allocate"]
REFERENCE = "rku"
COLUMNS = [
    *("model", "calib", *CHOICES, "preset", "n", "value", "ci_low", "ci_high", "delta", "discordant", "p_value"),
    *("design_effect", "p_cluster", "p_holm", "p_cluster_holm", "sparsity", "task", "metric"),
]


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    def outcomes(model: str, variant: Variant) -> pd.DataFrame:
        task, metric = settings["task"], settings["metric"]
        return comparison.outcomes_of(
            files.samples(model, variant, task), f"{model}/{variant}", task, metric, "accuracy"
        )

    tables, blocks = [], []
    for model in settings["models"]:
        variants = {row: Variant(settings["calib"], row, settings["sparsity"]) for row in settings["rows"]}
        samples = {row: outcomes(model, variant) for row, variant in variants.items()}
        tables.append(rows(model, samples, dense := outcomes(model, DENSE), settings))
        blocks.append(block(model, tables[-1], dense["value"].mean(), settings))
    title = "Ablation: RKU's choices, one by one"
    return printing.Page("ablation", title, pd.concat(tables, ignore_index=True)[COLUMNS], blocks)


def rows(
    model: str, samples: Mapping[str, pd.DataFrame], dense: pd.DataFrame, settings: Mapping[str, Any]
) -> pd.DataFrame:
    """One row per combination, compared with RKU's (where it is among them) by exact McNemar, Holm over the table;
    where items share templates by a t-test over these as well, with Holm of its own.

    Args: `samples` maps a combination to one metric's samples, sorted by item. Accuracies are fractions.
    Returns COLUMNS, `clusters`, and `p`, which decides. Raises InputError unless all have the same items."""
    comparison.same_items({"dense": dense, **samples}, settings["task"])
    reference = next((name for name in samples if settings["presets"].get(name) == REFERENCE), None)
    found = []
    for name, outcomes in samples.items():
        row = {"model": model, "calib": settings["calib"], **dict(zip(CHOICES, name.split("-"), strict=True))}
        row |= {"preset": settings["presets"].get(name, ""), **comparison.measure(outcomes, "accuracy", settings)}
        if reference not in (None, name):
            row |= comparison.tested(outcomes, samples[reference], "accuracy", settings["confidence"])
        found.append(row)
    table = pd.DataFrame(found).reindex(columns=[*COLUMNS, "clusters"])
    for p, adjusted in (("p_value", "p_holm"), ("p_cluster", "p_cluster_holm")):
        table[adjusted] = significance.holm(table[p].tolist())
    table["p"] = [comparison.deciding_p(row) for row in table.to_dict("records")]
    shared = {"sparsity": names.share(settings["sparsity"]), "task": settings["task"], "metric": settings.get("metric")}
    return table.assign(**shared).astype({"discordant": "Int64"})


def block(model: str, table: pd.DataFrame, dense: float, settings: Mapping[str, Any]) -> Block:
    """One model's rows, printed from the best to the worst."""
    lines, alpha, best = [], 1 - settings["confidence"], table["value"].max()
    for row in table.sort_values("value", ascending=False, kind="stable").itertuples():
        marks = ("n.s.",) if row.p > alpha else ()
        ends = row.value, row.ci_low, row.ci_high
        accuracy = printing.estimate("accuracy", *ends, row.value == best, marks)
        preset = f"`{row.preset}`" if row.preset else ""
        lines.append(
            (row.objective, [row.reduction, row.normalise, row.allocate, preset, accuracy, significance.shown(row.p)])
        )
    notes = [
        f"{settings['title']}, accuracy in per cent with Wilson's interval, n = {table['n'].iloc[0]:,} items, "
        f"{settings['sparsity']}% of the FFN neurons removed; the dense model: {printing.percent(dense)[0]}. Best "
        "first.",
        "The choices are explained in docs/methods.md. Under uniform allocation layers do not compete, so that "
        "normalising changes nothing.",
        f"p: exact McNemar test against `{REFERENCE}`'s combination on the same items, Holm over the table; n.s. above "
        f"{alpha:.3g}. The best was found by looking at these items: its lead is not tested.",
    ]
    if table["clusters"].notna().any():
        notes.append(
            "Items share templates: that test speaks of these templates with other instances, a t-test over templates "
            "(with Holm of its own) of other templates of the same kind; p is the larger of the two."
        )
    columns = ["Reduction", "Normalise", "Allocate", "Preset", "Accuracy", f"p against {REFERENCE}"]
    title = f"Every combination of RKU's choices on `{model}`"
    return Block(model, title, columns, lines, notes, head="Objective")
