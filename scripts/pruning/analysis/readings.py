"""Which way of computing RKU, AGF and Taylor-FO fits the paper's own numbers?

The paper's text leaves open how these were computed. A *reading* is one consistent set of choices: a method of this
pipeline for each of RKU, AGF, Taylor-FO and Wanda. Here its masks are compared with what the paper prints: the overlaps
of Table 4, how far AGF's perplexity lies from RKU's (Tables 6 and 7), and the claims of Section 4.2 (Figures 2 and 3).

Sparsities are whole per cent, IoUs and shares fractions, distances to Table 4 points of IoU.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pruning.core import significance
from pruning.core.errors import InputError
from pruning.report.printing import Block, Cell, percent

ROLES = {"rku": "RKU", "agf": "AGF", "taylor": "Taylor-FO", "wanda": "Wanda-Struct"}  # key of a reading, paper's name
CHOSEN = {"rku": "rku", "agf": "agf", "taylor": "taylor_fo", "wanda": "wanda"}  # the presets that stand for the paper
OTHERS = ("agf", "taylor", "wanda")
LINES = {"wanda_mean": ("wanda", "mean"), "wanda_layer": ("wanda", "layer"), "taylor_mean": ("taylor", "mean")}
# The bounds of "shallow sparsities (…)" and "macro IoU (…)" are lost in the paper's text as we have it; its
# Table 4 is above 0.8 up to 20%. From 40% on lies what it calls the collapse.
SHALLOW, SIMILAR, COLLAPSE = 20, 0.8, 40


def curve(overlap: pd.DataFrame, layer: int | None) -> pd.DataFrame:
    """IoU of a pair of methods by sparsity: `mean`, each layer counting the same, and `layer`, that of one.

    Args: `overlap` as scripts/overlap.py writes it; `layer` None is the last but one.
    Raises InputError for a layer that the model does not have."""
    layers = int(overlap["layer"].max()) + 1
    chosen = layers - 2 if layer is None else layer
    if not 0 <= chosen < layers:
        raise InputError(f"readings.layer: {chosen} is out of range, the model has layers 0 to {layers - 1}")
    one = overlap[overlap["layer"] == chosen].set_index("sparsity")["iou"]
    return pd.DataFrame({"mean": overlap.groupby("sparsity")["iou"].mean(), "layer": one})


def published_lines(table4: pd.DataFrame) -> pd.DataFrame:
    """The paper's Table 4 (resources/paper/table4.csv) by sparsity, a column for each of LINES."""
    columns = {}
    for name, (other, where) in LINES.items():
        rows = table4[(table4["second"] == ROLES[other]) & (table4["layer"].isna() == (where == "mean"))]
        columns[name] = rows["value"].set_axis((100 * rows["sparsity"]).round().astype(int))
    return pd.DataFrame(columns)


def distances(curves: Mapping[str, pd.DataFrame], published: pd.DataFrame, limit: int = 100) -> dict[str, float]:
    """Mean absolute distance to each line of Table 4 in points of IoU, and `mean` of the three.

    Args: `curves` of RKU with `wanda` and `taylor`; only the sparsities that both have, up to `limit`, count.
    Raises InputError if there is none."""
    found = {}
    for name, (other, where) in LINES.items():
        apart = (curves[other][where] - published[name]).dropna().abs()
        apart = apart[apart.index <= limit]
        if limit == 100 and apart.empty:
            raise InputError("readings.sparsities: none is in the paper's Table 4, which has 10, 20, … 90")
        found[name] = float(100 * apart.mean())
    return {**found, "mean": sum(found.values()) / len(found)}


def gaps(perplexities: pd.DataFrame, sparsities: Sequence[int]) -> pd.DataFrame:
    """How far each method's perplexity lies from RKU's in a table of the paper: |Δ ln PPL|.

    Args: `perplexities` as resources/paper/table6.csv or table7.csv; `sparsities` that are measured: only these count,
    or all where none is published. Returns a row a sparsity and task, and the columns agf, taylor, wanda."""
    rows = perplexities[perplexities["metric"].eq("perplexity") & perplexities["sparsity"].gt(0)]
    rows = rows.assign(sparsity=(100 * rows["sparsity"]).round().astype(int), value=np.log(rows["value"]))
    shared = rows[rows["sparsity"].isin(list(sparsities))]
    wide = (rows if shared.empty else shared).pivot(index=["sparsity", "task"], columns="method", values="value")
    return pd.DataFrame({role: (wide[ROLES[role]] - wide["RKU"]).abs() for role in OTHERS})


def nearness(apart: Mapping[str, float]) -> float:
    """AGF's distance from RKU over the mean of Taylor-FO's and Wanda's: 0 is the same, 1 as far as these; NaN where
    they have none."""
    others = (apart["taylor"] + apart["wanda"]) / 2
    return float(apart["agf"] / others) if others else np.nan


def suggested(gap: pd.DataFrame) -> tuple[float, float]:
    """Nearness of the masks that perplexities of a nearness suggest, if a gap grows as the distance of the masks to a
    power between 1/2 (independent errors) and 2: the least and the most."""
    of_gap = nearness(gap.mean())
    return of_gap**2, of_gap**0.5


def closeness(curves: Mapping[str, pd.DataFrame], gap: pd.DataFrame) -> dict[str, Any]:
    """How far RKU's masks are from the others', and what AGF's place says beside the paper's perplexities.

    Args: `curves` of RKU with agf, taylor and wanda; `gap` of the paper's perplexities, whose sparsities count (all
    that are measured, where it has none of them). Returns agf, taylor, wanda (mean of 1 - IoU over sparsities),
    `nearness`, and `verdict`: `same` (identical masks cannot have different perplexities), or, beside what the
    perplexities suggest, `near`, `fits` or `far`."""
    apart = {}
    for role in OTHERS:
        lines = 1 - curves[role]["mean"]
        shared = lines[lines.index.isin(gap.index.unique("sparsity"))]
        apart[role] = float((shared if len(shared) else lines).mean())
    near, (low, high) = nearness(apart), suggested(gap)
    verdict = "same" if apart["agf"] == 0 else "near" if near < low else "fits" if near <= high else "far"
    return {**apart, "nearness": near, "verdict": verdict}


def kept_shares(region: np.ndarray, keep: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of one layer's trap, spike and all neurons: how many there are, and the share of them that a mask keeps.

    Args: `region` str [n] (analysis/trap.py); `keep` maps rku and wanda to bool [n]. The share of no neurons is NaN."""
    found = {}
    for name, there in (("trap", region == "trap"), ("spike", region == "spike"), ("all", np.ones(len(region), bool))):
        found[f"{name}_neurons"] = int(there.sum())
        for role, mask in keep.items():
            found[f"{name}_{role}"] = float(mask[there].mean()) if there.any() else np.nan
    return found


def claims(curves: Mapping[str, pd.DataFrame], kept: Mapping[str, float], confidence: float) -> dict[str, bool | None]:
    """Whether each claim of Section 4.2 holds for a reading's masks; None where there is nothing to judge by.

    shallow: masks alike at shallow sparsities, mean IoU with both Wanda and Taylor-FO above SIMILAR up to SHALLOW;
    wanda_faster: RKU's IoU with Wanda below that with Taylor-FO at every sparsity from COLLAPSE on;
    deep: IoU with Wanda at the one layer below the mean of layers at every sparsity;
    trap: Wanda keeps more of the trap than of all neurons and RKU less; spike: RKU keeps more of the spikes than of
    all neurons and Wanda less; more and less where Wilson's interval of a share leaves out that of all neurons."""
    wanda, taylor = curves["wanda"], curves["taylor"]
    shallow, beyond = wanda.index <= SHALLOW, wanda.index >= COLLAPSE
    alike = pd.concat([wanda["mean"][shallow], taylor["mean"][taylor.index <= SHALLOW]])

    def beyond_chance(name: str, role: str) -> int:
        """1 where a method keeps more of a region than of all neurons, -1 less, 0 where that may be chance."""
        neurons = kept[f"{name}_neurons"]
        low, high = significance.wilson(round(kept[f"{name}_{role}"] * neurons), neurons, confidence)
        return int(low > kept[f"all_{role}"]) - int(high < kept[f"all_{role}"])

    def of_region(name: str, wanda: int) -> bool | None:
        signs = (beyond_chance(name, "wanda"), beyond_chance(name, "rku")) if kept[f"{name}_neurons"] else None
        return signs and signs == (wanda, -wanda)

    return {
        "shallow": bool((alike > SIMILAR).all()) if len(alike) else None,
        "wanda_faster": bool((wanda["mean"] < taylor["mean"])[beyond].all()) if beyond.any() else None,
        "deep": bool((wanda["layer"] < wanda["mean"]).all()),
        "trap": of_region("trap", 1),
        "spike": of_region("spike", -1),
    }


def row(
    curves: Mapping[str, pd.DataFrame],
    kept: Mapping[str, float],
    published: pd.DataFrame,
    gap: pd.DataFrame,
    confidence: float,
) -> dict[str, Any]:
    """Everything measured of one reading on one model; `gap` as `gaps` gives it for Table 6."""
    found = {f"distance_{name}": value for name, value in distances(curves, published).items()}
    shallow = distances(curves, published, COLLAPSE)
    found |= {f"distance_{name}_to_{COLLAPSE}": value for name, value in shallow.items()}
    near = closeness(curves, gap)
    found |= {f"apart_{role}": near[role] for role in OTHERS}
    found |= {"agf_nearness": near["nearness"], "agf_verdict": near["verdict"], **kept}
    return {**found, **{f"claim_{name}": holds for name, holds in claims(curves, kept, confidence).items()}}


# To read ------------------------------------------------------------------------------------------------------------

VERDICTS = {
    "same": "ruled out: same masks",
    "near": "nearer than suggested",
    "fits": "as near as suggested",
    "far": "farther than suggested",
}
YES = {True: "yes", False: "no", None: "–"}
OWN = " (the presets)"


def is_chosen(reading: Mapping[str, str]) -> bool:
    """Whether these are the presets beside which the pipeline prints the paper's numbers."""
    return all(reading[role] == name for role, name in CHOSEN.items())


def blocks(
    model: str, table: pd.DataFrame, paper: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]
) -> list[Block]:
    """One model's readings, best first: distance to Table 4, AGF beside RKU, the claims, and what each is made of.

    Args: `table`, rows of `row` with the columns `reading` and `layer`; `paper` maps table6 and table7 to `gaps`,
    table1 and table4 to the files' rows; `settings` as scripts/readings.py documents."""
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
