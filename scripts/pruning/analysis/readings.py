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

from pruning.analysis.layer import chosen
from pruning.core import significance
from pruning.core.errors import InputError

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
    one = overlap[overlap["layer"] == chosen(layer, int(overlap["layer"].max()) + 1)].set_index("sparsity")["iou"]
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


def is_chosen(reading: Mapping[str, str]) -> bool:
    """Whether these are the presets beside which the pipeline prints the paper's numbers."""
    return all(reading[role] == name for role, name in CHOSEN.items())
