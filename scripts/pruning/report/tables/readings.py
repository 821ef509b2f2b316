"""Which way of computing the paper's methods fits the paper's numbers.

Settings: `models`, `calib`; `rows`, reading -> its `title`, its methods (`rku`, `agf`, `taylor`, `wanda`) and the
`objective` of its rku; `sparsities` (whole per cent) and `layer` (null: the last but one) of the overlaps; `sparsity`
of the masks whose trap and spikes are counted, with the quantiles `high` and `low` and the `confidence` of intervals.
Files: `overlap`, `masks` and `statistics`, templates; `table1`, `table4`, `table6` and `table7` of the paper.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pruning.analysis import readings, trap
from pruning.analysis.layer import chosen
from pruning.analysis.readings import (
    COLLAPSE,
    LINES,
    OTHERS,
    ROLES,
    SHALLOW,
    SIMILAR,
    is_chosen,
    nearness,
    suggested,
)
from pruning.core import artifacts
from pruning.methods.masks import rows as rows_of
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, Cell, percent


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    raw = {name: pd.read_csv(files.one(name)) for name in ("table1", "table4", "table6", "table7")}
    paper = raw | {name: readings.gaps(raw[name], settings["sparsities"]) for name in ("table6", "table7")}
    lines = readings.published_lines(raw["table4"])
    calib, sparsity = settings["calib"], settings["sparsity"]

    def curve(model: str, first: str, second: str) -> pd.DataFrame:
        overlap = artifacts.read_csv(files.at("overlap", model=model, calib=calib, first=first, second=second))
        overlap["sparsity"] = (100 * overlap["sparsity"]).round().astype(int)
        return readings.curve(overlap[overlap["sparsity"].isin(settings["sparsities"])], settings["layer"])

    def keep(model: str, method: str, layer: int) -> np.ndarray:
        path = files.at("masks", model=model, calib=calib, method=method, sparsity=sparsity)
        mask = rows_of(path, "mask")
        return mask[mask["layer"] == layer].sort_values("unit")["keep"].to_numpy()

    tables, pages = [], []
    for model in settings["models"]:
        statistics = artifacts.read_parquet(files.at("statistics", model=model, calib=calib), "statistics")
        layer = chosen(settings["layer"], int(statistics["layer"].max()) + 1)
        of_layer, rows = statistics[statistics["layer"] == layer], []
        for name, reading in settings["rows"].items():
            curves = {role: curve(model, reading["rku"], reading[role]) for role in ("agf", "taylor", "wanda")}
            neurons = trap.neurons(of_layer, settings["high"], settings["low"], reading["objective"])
            masks = {role: keep(model, reading[role], layer) for role in ("rku", "wanda")}
            kept = readings.kept_shares(neurons["region"].to_numpy(), masks)
            named = {"model": model, "calib": calib, "reading": name, "chosen": is_chosen(reading)}
            named |= {role: reading[role] for role in ROLES} | {"layer": layer}
            rows.append(named | readings.row(curves, kept, lines, paper["table6"], settings["confidence"]))
        tables.append(pd.DataFrame(rows))
        pages += blocks(model, tables[-1], paper, settings)
    title = "Readings: how the paper's methods may have been computed, judged by its own numbers"
    return printing.page("readings", title, pd.concat(tables, ignore_index=True), pages)


VERDICTS = {
    "same": "ruled out: same masks",
    "near": "nearer than suggested",
    "fits": "as near as suggested",
    "far": "farther than suggested",
}
YES = {True: "yes", False: "no", None: "–"}
OWN = " (the presets)"


def blocks(
    model: str, table: pd.DataFrame, paper: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]
) -> list[Block]:
    """One model's readings, best first: distance to Table 4, AGF beside RKU, the claims, and what each is made of.

    Args: `table`, rows of `row` with the columns `reading` and `layer`; `paper` maps table6 and table7 to `gaps`,
    table1 and table4 to the files' rows; `settings` as above."""
    table = table.sort_values("distance_mean", kind="stable")
    rows = [settings["rows"][name] for name in table["reading"]]
    table = table.assign(label=[r["title"] + OWN * is_chosen(r) for r in rows])
    names = [[Cell(f"`{r[role]}`", "") for role in ROLES] for r in rows]
    return [
        _fit(model, table, model in set(paper["table4"]["model"]), settings),
        _agf(model, table, paper),
        _claims(model, table, settings),
        Block(
            f"{model}-methods",
            f"What each reading on `{model}` takes for the paper's methods",
            [""],
            list(ROLES.values()),
            list(zip(table["label"], names, strict=True)),
            ["Names of methods as in docs/methods.md, where their formulas are."],
            head="Reading",
        ),
    ]


def _fit(model: str, table: pd.DataFrame, papers_own: bool, settings: Mapping[str, Any]) -> Block:
    names = [*LINES, "mean"]
    best = {name: table[f"distance_{name}"].min() for name in names}
    rows = []
    for r in table.to_dict("records"):
        cells = []
        for name in names:
            far, near = r[f"distance_{name}"], r[f"distance_{name}_to_{COLLAPSE}"]
            cells.append(Cell(f"{far:.1f}", "" if np.isnan(near) else f"[{near:.1f}]", far == best[name]))
        rows.append((r["label"], cells))
    layer, sparsities = table["layer"].iloc[0], settings["sparsities"]
    notes = [
        "The paper's text leaves open how its methods were computed. Each row is one way to read it: this model, "
        "pruned by that reading's RKU, Wanda-Struct and Taylor-FO. Best first. The presets: the reading beside "
        "which this pipeline prints the paper's numbers.",
        "Numbers: how far the overlaps of the reading's masks are from those in the paper's Table 4, as the mean "
        f"absolute difference over {len(sparsities)} sparsities from {min(sparsities)} to {max(sparsities)}%, in "
        f"points of intersection over union; 0 would be the paper's own numbers. In brackets: up to {COLLAPSE}% "
        "only. Bold: the least of a column.",
        "RKU, AGF and Taylor-FO multiply a neuron's activation by its gradient, take absolute values and add up "
        "over tokens, unless the row says otherwise. The gradient is that of the energy (half the mean square norm "
        "of the last hidden states) in RKU and AGF, of the cross-entropy in Taylor-FO.",
        "Every layer cut alike: each loses the same share of its neurons. Ranked over the model: the lowest scores "
        "go, whatever their layer, so that layers get other widths; a later version of the paper speaks of Global "
        "RKU.",
        f"Layer {layer} (counted from 0) stands for the paper's layer 26 of 28.",
        "What this argues: readings that are several points apart in these columns are told apart. Those within "
        "about a point are not: there is one calibration text and no interval here.",
    ]
    if not papers_own:
        notes.append(
            f"The paper's Table 4 is of Qwen2.5-7B; `{model}` is another model, calibrated on another text, so that "
            "no reading can be expected at 0: they are compared with each other, on the same model."
        )
    columns = ["RKU and Wanda, mean of layers", f"RKU and Wanda, layer {layer}", "RKU and Taylor-FO, mean of layers"]
    title = f"Distance to the paper's Table 4 of each reading on `{model}`"
    return Block(f"{model}-fit", title, [""], [*columns, "Mean of the three"], rows, notes, head="Reading")


def _agf(model: str, table: pd.DataFrame, paper: Mapping[str, pd.DataFrame]) -> Block:
    rows = []
    for name, where in (("table6", "Qwen2.5-7B"), ("table7", "LLaMA-3-8B")):
        mean = paper[name].mean()
        values = [*(f"{100 * mean[role]:.1f}" for role in OTHERS), f"{nearness(mean):.2f}"]
        rows.append((f"The paper's Table {name[-1]}, {where}: perplexity", [*values, ""]))
    for r in table.to_dict("records"):
        values = percent(*(r[f"apart_{role}"] for role in OTHERS))
        rows.append((r["label"], [*values, f"{r['agf_nearness']:.2f}", VERDICTS[r["agf_verdict"]]]))
    return Block(
        f"{model}-agf",
        f"How far from RKU the other methods are: the paper's perplexities, and masks of each reading on `{model}`",
        [""],
        ["AGF", "Taylor-FO", "Wanda", "AGF over the two", "AGF's masks"],
        [(label, [Cell(value, "") for value in values]) for label, values in rows],
        _agf_notes(paper),
        head="Reading",
    )


def _agf_notes(paper: Mapping[str, pd.DataFrame]) -> list[str]:
    gap, llama = paper["table6"], paper["table7"]["agf"].groupby("sparsity").mean()
    nearer = [int((gap["agf"] < gap[role]).sum()) for role in ("taylor", "wanda")]
    beyond = gap[gap.index.get_level_values("sparsity") >= COLLAPSE]  # where masks are far apart
    closest = (gap if beyond.empty else beyond)["wanda"].idxmin()
    at = {role: f"{100 * gap.loc[closest, role]:.1f}%" for role in ("agf", "wanda")}
    table1 = paper["table1"].set_index(["task", "sparsity", "method"])["value"]
    solved = {method: f"{100 * table1['gsm8k', 0.3, method]:.1f}%" for method in ("AGF", "RKU")}
    low, high = suggested(gap)
    return [
        "Rows of the paper: difference in log-perplexity from RKU, times 100 (about per cent of perplexity), mean "
        "over the sparsities that both have and the data sets. Rows of readings: 100 minus the intersection over "
        "union, in per cent, of the neurons that RKU and the other method keep, mean over the sparsities shared "
        "with Table 6; 0 is the same mask. AGF over the two: AGF's number over the mean of the other two.",
        "What is argued: identical masks have identical perplexities, and the paper's AGF and RKU differ at every "
        "sparsity. So a reading that gives both the same masks is ruled out (a factor for each layer changes no "
        "mask where every layer is cut alike), unless the paper calibrated the two on different text.",
        "What is only suggestive: if a gap in perplexity grows as the distance of the masks to a power between 1/2 "
        f"and 2, the paper's Table 6 suggests AGF over the two between {low:.2f} and {high:.2f}; nearer, as near and "
        f"farther are by this. In its {len(gap)} perplexities AGF's is nearer to RKU's than Taylor-FO's is in "
        f"{nearer[0]} and than Wanda-Struct's in {nearer[1]}. No single pair of numbers shows anything, as far masks "
        f"can have like perplexities (Wanda-Struct's is only {at['wanda']} from RKU's on {closest[1]} at "
        f"{closest[0]}%, AGF's {at['agf']}).",
        f"What speaks against AGF and RKU as near-twins: on LLaMA-3-8B they differ by {100 * llama.min():.0f} to "
        f"{100 * llama.max():.0f}% in perplexity, and on Qwen2.5-7B at 30% AGF solves {solved['AGF']} of GSM8K and "
        f"RKU {solved['RKU']} (Table 1), which masks with one neuron in a hundred exchanged hardly explain.",
    ]


def _claims(model: str, table: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    rows = [("The paper", ["", "", "", *["yes"] * 5])]
    for r in table.to_dict("records"):
        shares = [" / ".join(percent(r[f"{name}_wanda"], r[f"{name}_rku"])) for name in ("trap", "spike", "all")]
        holds = [YES[r[f"claim_{name}"]] for name in ("trap", "spike", "shallow", "wanda_faster", "deep")]
        rows.append((r["label"], [*shares, *holds]))
    layer, first = table["layer"].iloc[0], table.iloc[0]
    notes = [
        "Trap kept, spikes kept, all kept: the share of these neurons, in per cent, that Wanda / RKU keeps in layer "
        f"{layer} at {settings['sparsity']}% sparsity. Trap: neurons whose activation is in the layer's upper "
        f"{100 * (1 - settings['high']):.0f}% and whose gradient (of the reading's own objective) is in its lower "
        f"{100 * settings['low']:.0f}%; spikes: the reverse. In the first reading these are {first['trap_neurons']} "
        f"and {first['spike_neurons']} of {first['all_neurons']} neurons.",
        "Leaves the trap (Figure 2): Wanda keeps more of the trap than of all neurons, RKU less. Keeps the spikes: "
        "RKU keeps more of them than of all neurons, Wanda less. More and less: beyond the interval (Wilson, "
        f"{100 * settings['confidence']:.0f}%) of so few neurons. An RKU that is the gradient alone does both by "
        "construction.",
        f"Alike at first (Section 4.2): RKU's overlaps with Wanda and with Taylor-FO are above {100 * SIMILAR:.0f}% "
        f"up to {SHALLOW}% sparsity (our bounds: the paper's are lost in the text we have). Wanda parts faster: RKU "
        f"overlaps less with Wanda than with Taylor-FO at every sparsity from {COLLAPSE}% on. Deep layer parts more: "
        f"the overlap with Wanda is below the mean of layers in layer {layer}, at every sparsity. –: nothing to "
        "judge by.",
        "The paper claims all five; it shows the last three in its Table 4 and gives no number for the first two.",
    ]
    columns = ["Trap kept", "Spikes kept", "All kept", "Leaves the trap", "Keeps the spikes", "Alike at first"]
    return Block(
        f"{model}-claims",
        f"The claims of the paper's Section 4.2 under each reading on `{model}`",
        [""],
        [*columns, "Wanda parts faster", "Deep layer parts more"],
        [(label, [Cell(value, "") for value in values]) for label, values in rows],
        notes,
        head="Reading",
    )
