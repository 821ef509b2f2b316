"""How much two masks agree (the paper's Table 4 and Figure 3)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pruning.core.errors import InputError
from pruning.report.printing import Block, Cell, percent


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two layers' kept neurons, bool [n]; 1 where neither keeps any."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def expected_iou(keep_a: float, keep_b: float) -> float:
    """What chance gives for two independent masks that keep these fractions of a wide layer."""
    union = keep_a + keep_b - keep_a * keep_b
    return keep_a * keep_b / union if union else 1.0


def table4_rows(overlap: pd.DataFrame, published: pd.DataFrame, layer: int | None) -> pd.DataFrame:
    """Mean IoU over layers (`layer` empty) and IoU at one layer, with chance and the paper's value and difference.

    Args: `overlap` as scripts/overlap.py writes it, of any models and pairs; `published` as resources/paper/table4.csv;
    `layer` None is the last but one. Sparsities become fractions.
    Raises InputError for a layer that the model does not have."""
    parts = []
    for _, frame in overlap.groupby(["model", "calib", "first", "second"], sort=False):
        layers = int(frame["layer"].max()) + 1
        chosen = layers - 2 if layer is None else layer
        if not 0 <= chosen < layers:
            raise InputError(f"overlap.layer: {chosen} is out of range, the model has layers 0 to {layers - 1}")
        keys = ["model", "calib", "first", "second", "sparsity"]
        mean = frame.groupby(keys, sort=False)[["iou", "chance"]].mean().reset_index().assign(layer=None)
        parts += [mean, frame[frame["layer"] == chosen]]
    rows = pd.concat([part.astype({"layer": "Int64"}) for part in parts], ignore_index=True)
    rows["sparsity"] = rows["sparsity"] / 100
    rows["published"] = [_published(row, published) for row in rows.itertuples()]
    rows["difference"] = rows["iou"] - rows["published"]
    columns = ["model", "calib", "first", "second", "layer", "sparsity", "iou", "chance", "published", "difference"]
    return rows[columns]


def _published(row, published: pd.DataFrame) -> float:
    """The paper's value for a pair in either order, under any of the candidate readings; NaN without."""
    for entry in published[published["model"] == row.model].itertuples():
        pair = (entry.first_presets.split(";"), entry.second_presets.split(";"))
        matches = any(a in pair[0] and b in pair[1] for a, b in ((row.first, row.second), (row.second, row.first)))
        same_layer = pd.isna(entry.layer) if pd.isna(row.layer) else entry.layer == row.layer
        if matches and same_layer and abs(entry.sparsity - row.sparsity) < 1e-9:
            return entry.value
    return float("nan")


def table4_block(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], known_trouble: Sequence[str]) -> Block:
    """One model's rows in the paper's layout: a row a pair and layer, a column a sparsity; chance in brackets."""
    sparsities = sorted(rows["sparsity"].unique())
    model, calib = rows["model"].iloc[0], rows["calib"].iloc[0]
    chosen = rows["layer"].dropna().iloc[0]
    lines = []
    for first, second in pairs:
        pair = rows[(rows["first"] == first) & (rows["second"] == second)]
        for where, part in (("average", pair[pair["layer"].isna()]), (f"layer {chosen}", pair[pair["layer"].notna()])):
            cells = []
            for row in part.sort_values("sparsity").itertuples():
                value, chance = percent(row.iou, row.chance)
                paper = (
                    "" if pd.isna(row.published) else f"paper {100 * row.published:.2f}, {100 * row.difference:+.1f}"
                )
                cells.append(Cell(value, f"[{chance}]", published=paper.replace("-", "−")))
            lines.append((f"`{first}` and `{second}`, {where}", cells))
    notes = [
        "Intersection over union, in per cent, of the neurons that two methods keep: 100 is the same mask. In "
        "brackets: what two independent masks of the same widths would give.",
        "average: the mean of the layers' values, each layer counting the same, whatever its width.",
    ]
    if rows["published"].notna().any():
        notes += ["paper: the published value, and measured minus published in points.", *known_trouble]
    columns = [f"{100 * sparsity:.0f}%" for sparsity in sparsities]
    title = f"Mask overlap on `{model}`, calibrated on `{calib}`, by sparsity"
    return Block(f"{model}-{calib}", title, [""], columns, lines, notes, head="Pair")
