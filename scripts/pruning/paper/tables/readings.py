"""Which interpretation of the paper's methods fits the paper's numbers (docs/explanation/paper-methods.md).

The paper leaves open how RKU, AGF and Taylor-FO were computed. An interpretation is one method of this pipeline for
each of ROLES. Its masks are compared with the overlaps of the paper's Table 4, with how far AGF's perplexity lies from
RKU's in Table 6, and with the claims of Section 4.2 (Figures 2 and 3).

Settings: `models`, `calib`; `rows`, interpretation -> its `title`, a method for each of ROLES and the `objective` of
its rku; `sparsities` (whole per cent) and `layer` (null: the last but one) of the overlaps; `sparsity` of the masks,
`high`, `low` and `confidence` as for paper/trap.py. Files: `overlap`, `masks` and `statistics`, templates; `table4`
and `table6` of the paper.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import artifacts, names
from pruning.core.errors import InputError
from pruning.methods.masks import rows as rows_of
from pruning.paper import chosen, trap
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, Cell

ROLES = {"rku": "RKU", "agf": "AGF", "taylor": "Taylor-FO", "wanda": "Wanda-Struct"}  # key, the paper's name
PRESETS = {"rku": "rku", "agf": "agf", "taylor": "taylor_fo", "wanda": "wanda"}  # that stand for the paper's
OTHERS = ("agf", "taylor", "wanda")
LINES = {"wanda_mean": ("wanda", "mean"), "wanda_layer": ("wanda", "layer"), "taylor_mean": ("taylor", "mean")}
# The bounds of "shallow sparsities (…)" and "macro IoU (…)" are lost in the paper's text as we have it; its
# Table 4 is above 0.8 up to 20%. From 40% on lies what it calls the collapse.
SHALLOW, SIMILAR, COLLAPSE = 20, 0.8, 40
CLAIMS = {"trap": "Leaves the trap", "spike": "Keeps the spikes", "shallow": "Alike at first"}
CLAIMS |= {"wanda_faster": "Wanda parts faster", "deep": "Deep layer parts more"}


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    published = published_lines(pd.read_csv(files.one("table4")))
    gap = gaps(pd.read_csv(files.one("table6")), settings["sparsities"])
    calib, sparsity, tables = settings["calib"], settings["sparsity"], []
    for model in settings["models"]:
        statistics = artifacts.read_parquet(files.at("statistics", model=model, calib=calib), "statistics")
        layer = chosen(settings["layer"], int(statistics["layer"].max()) + 1)
        rows = []
        for name, entry in settings["rows"].items():
            curves, masks = {}, {}
            for role in OTHERS:
                path = files.at("overlap", model=model, calib=calib, first=entry["rku"], second=entry[role])
                curves[role] = curve(artifacts.read_csv(path), settings["sparsities"], layer)
            for role in ("rku", "wanda"):
                path = files.at("masks", model=model, calib=calib, method=entry[role], sparsity=sparsity)
                mask = rows_of(path, "mask")
                masks[role] = mask[mask["layer"] == layer]
            of_layer = statistics[statistics["layer"] == layer]
            neurons = trap.neurons(of_layer, settings["high"], settings["low"], entry["objective"])
            kept = trap.region_rows(trap.with_masks(neurons, masks), list(masks), settings["confidence"])
            kept = kept[kept["layer"] == "all"].set_index(["region", "method"])
            methods = {role: entry[role] for role in ROLES}
            row = {"model": model, "calib": calib, "reading": name, "chosen": methods == PRESETS, **methods}
            row |= {"layer": layer, **distances(curves, published), **distances(curves, published, COLLAPSE)}
            row |= closeness(curves, gap)
            for region in ("trap", "spike"):
                row[f"{region}_neurons"] = kept.loc[(region, "rku"), "neurons"]
                row |= {f"{region}_{role}": kept.loc[(region, role), "kept_share"] for role in masks}
            row |= {"all_neurons": len(neurons)}
            row |= {f"all_{role}": kept.loc[("trap", role), "layer_kept_share"] for role in masks}
            rows.append(row | claims(curves, kept))
        tables.append(pd.DataFrame(rows))
    title = "Interpretations: how the paper's methods may have been computed, judged by its own numbers"
    pages = [block(table, settings) for table in tables]
    return printing.Page("readings", title, pd.concat(tables, ignore_index=True), pages)


def curve(overlap: pd.DataFrame, sparsities: Sequence[int], layer: int) -> pd.DataFrame:
    """IoU of two methods by sparsity (whole per cent): `mean` of the layers and `layer`, that of one. `overlap` as
    paper/overlap.py writes it."""
    overlap = overlap.assign(sparsity=names.percent(overlap["sparsity"]))
    overlap = overlap[overlap["sparsity"].isin(list(sparsities))]
    one = overlap[overlap["layer"] == layer].set_index("sparsity")["iou"]
    return pd.DataFrame({"mean": overlap.groupby("sparsity")["iou"].mean(), "layer": one})


def published_lines(table4: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 4 (resources/paper/table4.csv) by sparsity, a column for each of LINES."""
    columns = {}
    for name, (other, where) in LINES.items():
        rows = table4[(table4["second"] == ROLES[other]) & (table4["layer"].isna() == (where == "mean"))]
        columns[name] = rows["value"].set_axis(names.percent(rows["sparsity"]))
    return pd.DataFrame(columns)


def distances(curves: Mapping[str, pd.DataFrame], published: pd.DataFrame, limit: int = 100) -> dict[str, float]:
    """Mean absolute distance to each line of Table 4 in points of IoU, and their mean, over the sparsities that both
    have, up to `limit`. Raises InputError if there is none."""
    found = {}
    for name, (other, where) in LINES.items():
        apart = (curves[other][where] - published[name]).dropna().abs()
        apart = apart[apart.index <= limit]
        if limit == 100 and apart.empty:
            raise InputError("readings.sparsities: none is in the paper's Table 4, which has 10, 20, … 90")
        found[name] = float(100 * apart.mean())
    found["mean"] = sum(found.values()) / len(found)
    return {f"distance_{name}{'' if limit == 100 else f'_to_{limit}'}": value for name, value in found.items()}


def gaps(perplexities: pd.DataFrame, sparsities: Sequence[int]) -> pd.DataFrame:
    """How far AGF's, Taylor-FO's and Wanda's perplexities lie from RKU's in the paper's Table 6: |Δ ln PPL|, a row per
    sparsity and task; of the sparsities that are measured, or of all where none is published."""
    rows = perplexities[perplexities["metric"].eq("perplexity") & perplexities["sparsity"].gt(0)]
    rows = rows.assign(sparsity=names.percent(rows["sparsity"]), value=np.log(rows["value"]))
    shared = rows[rows["sparsity"].isin(list(sparsities))]
    wide = (rows if shared.empty else shared).pivot(index=["sparsity", "task"], columns="method", values="value")
    return pd.DataFrame({role: (wide[ROLES[role]] - wide["RKU"]).abs() for role in OTHERS})


def closeness(curves: Mapping[str, pd.DataFrame], gap: pd.DataFrame) -> dict[str, Any]:
    """How far RKU's masks are from the others' (mean of 1 - IoU over the sparsities of `gap`, or over all), and AGF's
    distance over the mean of the other two.

    `agf_verdict`: `same` (identical masks cannot have different perplexities), or `near`, `fits` or `far` beside what
    the perplexities suggest, if a gap grows as the distance of the masks to a power between 1/2 and 2."""
    apart = {}
    for role in OTHERS:
        lines = 1 - curves[role]["mean"]
        shared = lines[lines.index.isin(gap.index.unique("sparsity"))]
        apart[role] = float((shared if len(shared) else lines).mean())
    near, of_gap = (
        2 * d["agf"] / total if (total := d["taylor"] + d["wanda"]) else np.nan for d in (apart, gap.mean())
    )
    verdict = "near" if near < of_gap**2 else "fits" if near <= of_gap**0.5 else "far"
    found = {f"apart_{role}": value for role, value in apart.items()}
    return found | {"agf_nearness": near, "agf_verdict": verdict if apart["agf"] else "same"}


def claims(curves: Mapping[str, pd.DataFrame], kept: pd.DataFrame) -> dict[str, bool | None]:
    """Whether each claim of Section 4.2 holds for the masks, as `block` explains them; None where there is nothing to
    judge by. `kept`: rows of trap.region_rows by region and role."""
    wanda, taylor = curves["wanda"], curves["taylor"]
    beyond = wanda.index >= COLLAPSE
    alike = pd.concat([wanda["mean"][wanda.index <= SHALLOW], taylor["mean"][taylor.index <= SHALLOW]])
    found = {"shallow": bool((alike > SIMILAR).all()) if len(alike) else None}
    found["wanda_faster"] = bool((wanda["mean"] < taylor["mean"])[beyond].all()) if beyond.any() else None
    found["deep"] = bool((wanda["layer"] < wanda["mean"]).all())
    more, less = kept["ci_low"] > kept["layer_kept_share"], kept["ci_high"] < kept["layer_kept_share"]
    for region, keeps, leaves in (("trap", "wanda", "rku"), ("spike", "rku", "wanda")):
        there = kept.loc[(region, "rku"), "neurons"]
        found[region] = bool(more[region, keeps] and less[region, leaves]) if there else None
    return {f"claim_{name}": holds for name, holds in found.items()}


def block(table: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    """One model's interpretations, the nearest to the paper's Table 4 first."""
    model, layer = table["model"].iloc[0], table["layer"].iloc[0]
    measures = [f"distance_{name}" for name in (*LINES, "mean")]
    lines = []
    for row in table.sort_values("distance_mean", kind="stable").to_dict("records"):
        cells = [Cell(f"{row[name]:.1f}", best=row[name] == table[name].min()) for name in measures]
        cells += [row["agf_verdict"], *({True: "yes", False: "no"}.get(row[f"claim_{name}"], "–") for name in CLAIMS)]
        lines.append((settings["rows"][row["reading"]]["title"] + " (the presets)" * row["chosen"], cells))
    notes = [
        "Distances: mean absolute difference from the paper's Table 4 (Qwen2.5-7B) over the sparsities measured, in "
        "points of intersection over union. No interval: about a point tells nothing. AGF: its masks beside RKU's. "
        "same: ruled out, as the paper's perplexities differ; near, fits, far: beside what these suggest.",
        "Trap: active neurons without gradient; spikes: the reverse. RKU leaves the one and keeps the other, Wanda "
        f"does the opposite, beyond Wilson's interval, in layer {layer} at {settings['sparsity']}%. Alike at first: "
        f"RKU's overlaps are above {100 * SIMILAR:.0f}% up to {SHALLOW}%. Wanda parts faster than Taylor-FO: from "
        f"{COLLAPSE}% on. Deep layer: below the mean of layers. All numbers are in the CSV (docs/artefacts.md).",
    ]
    columns = ["RKU and Wanda", f"RKU and Wanda, layer {layer}", "RKU and Taylor-FO", "Mean of the three"]
    title = f"Interpretations on `{model}`: distance to the paper's Table 4, and the claims of its Section 4.2"
    return Block(model, title, [*columns, "AGF", *CLAIMS.values()], lines, notes, head="Interpretation")
