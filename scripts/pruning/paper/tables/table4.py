"""Table 4: IoU of two methods' masks over the sparsities, averaged over layers and at one of them.

Settings: `models` and `pairs` (in the order of the blocks and rows), `layer` (null: the last but one). Files:
`overlap`, `published`, `notes`.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import yaml

from pruning.core import artifacts, names
from pruning.paper import chosen
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, Cell, percent

PAIR = ["model", "calib", "first", "second"]
COLUMNS = [*PAIR, "layer", "sparsity", "iou", "chance", "published", "difference"]


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    frame = pd.concat([artifacts.read_csv(path) for path in files.all("overlap")], ignore_index=True)
    found = rows(frame, pd.read_csv(files.one("published")), settings["layer"])
    known_trouble = yaml.safe_load(files.one("notes").read_text(encoding="utf-8"))["table4"]
    pairs = [tuple(pair) for pair in settings["pairs"]]
    blocks = [block(found[found["model"] == model], pairs, known_trouble) for model in settings["models"]]
    return printing.Page("table4", "Table 4: how much two methods' masks agree", found, blocks)


def rows(overlap: pd.DataFrame, published: pd.DataFrame, layer: int | None) -> pd.DataFrame:
    """Mean IoU over layers (`layer` empty) and IoU at one layer, with chance and the paper's value and difference.

    Args: `overlap` as paper/overlap.py writes it, of any models and pairs; `published` as
    resources/paper/table4.csv. `layer` None is the last but one.
    Raises InputError for a layer that the model does not have."""
    parts = []
    for _, frame in overlap.groupby(PAIR, sort=False):
        mean = frame.groupby([*PAIR, "sparsity"], sort=False)[["iou", "chance"]].mean().reset_index().assign(layer=None)
        parts += [mean, frame[frame["layer"] == chosen(layer, int(frame["layer"].max()) + 1)]]
    rows = pd.concat([part.astype({"layer": "Int64"}) for part in parts], ignore_index=True)
    rows["published"] = [_published(row, published) for row in rows.itertuples()]
    rows["difference"] = rows["iou"] - rows["published"]
    return rows[COLUMNS]


def _published(row: Any, published: pd.DataFrame) -> float:
    """The paper's value for a pair in either order, under any of the candidate presets; NaN without."""
    same_layer = published["layer"].isna() if pd.isna(row.layer) else published["layer"] == row.layer
    same = (published["model"] == row.model) & same_layer & ((published["sparsity"] - row.sparsity).abs() < 1e-9)
    for entry in published[same].itertuples():
        first, second = entry.first_presets.split(";"), entry.second_presets.split(";")
        if (row.first in first and row.second in second) or (row.second in first and row.first in second):
            return entry.value
    return float("nan")


def block(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], known_trouble: Sequence[str]) -> Block:
    """One model's rows in the paper's layout: a row per pair and layer, a column per sparsity; chance in brackets."""
    model, calib, shown = rows["model"].iloc[0], rows["calib"].iloc[0], rows["layer"].dropna().iloc[0]
    lines = []
    for first, second in pairs:
        pair = rows[(rows["first"] == first) & (rows["second"] == second)].sort_values("sparsity")
        for where, part in (("average", pair[pair["layer"].isna()]), (f"layer {shown}", pair[pair["layer"].notna()])):
            cells = []
            for row in part.itertuples():
                value, chance = percent(row.iou, row.chance)
                beside = printing.difference(100 * row.published, 100 * row.difference)
                cells.append(Cell(value, f"[{chance}]", published="" if pd.isna(row.published) else beside))
            lines.append((f"`{first}` and `{second}`, {where}", cells))
    notes = [
        "Intersection over union, in per cent, of the neurons that two methods keep: 100 is the same mask. In "
        "brackets: what two independent masks of the same widths would give.",
        "average: the mean of the layers' values, each layer counting the same, whatever its width.",
    ]
    if rows["published"].notna().any():
        notes += ["paper: the published value, and measured minus published in points.", " ".join(known_trouble)]
    columns = [f"{names.percent(sparsity):.0f}%" for sparsity in sorted(rows["sparsity"].unique())]
    title = f"Mask overlap on `{model}`, calibrated on `{calib}`, by sparsity"
    return Block(f"{model}-{calib}", title, columns, lines, notes, head="Pair")
