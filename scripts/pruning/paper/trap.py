"""The paper's "Wanda's trap" (section 4.2, Figure 2) as counts that can contradict it.

The paper's claims: many neurons have a large activation and next to no kinetic gradient (the trap), magnitude methods
keep these, RKU keeps the opposite ones (kinetic spikes), and syntactic tokens dominate the magnitude. Here a
neuron's region is set by quantiles within its layer, and stands beside the number that independence gives, what each
method keeps of it, and the classes of tokens that its activation comes from.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pruning.calibration.columns import TOKEN_CLASSES
from pruning.core import artifacts, names, significance
from pruning.methods.masks import rows as rows_of
from pruning.paper import chosen
from pruning.report.files import Files

REGIONS = ("trap", "spike", "rest")
GROUPS = ("all", "trap", "spike")
MEASURES = {name: f"{name}_sum" for name in ("act_abs", "act_sq", "energy_abs", "ce_abs")}
"""Measure -> its column, a sum over tokens (calibration/columns.py)."""


def write(files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write neurons.parquet (`neurons`, keep_<method>), regions.csv (`region_rows`) and classes.csv (`class_rows`).

    Files: `statistics` and `token_classes` of the calibration, `masks` of the methods. Settings: `model`, `calib`,
    `methods`, `sparsity` (whole per cent); `high` and `low`, the quantiles within a layer that make a neuron's
    activation and gradient large and small; `objective`, whose gradient that is; `confidence` of the intervals;
    `layer`, as `chosen` has it."""
    statistics, per_class = (artifacts.read_parquet(files.one(kind), kind) for kind in ("statistics", "token_classes"))
    masks = {m: rows_of(path, "mask") for m, path in zip(settings["methods"], files.all("masks"), strict=True)}
    frame = with_masks(neurons(statistics, settings["high"], settings["low"], settings["objective"]), masks)
    classes = class_rows(per_class, frame, chosen(settings["layer"], frame["layer"].nunique()))
    found = region_rows(frame, list(masks), settings["confidence"])
    found.insert(1, "sparsity", names.share(settings["sparsity"]))
    columns = ["layer", "unit", "activation", "gradient", "region", *(f"keep_{method}" for method in masks)]
    artifacts.write_parquet(outputs[0], frame[columns], "trap", settings)
    for path, rows in zip(outputs[1:], (found, classes), strict=True):
        rows.insert(0, "model", settings["model"])
        rows.insert(1, "calib", settings["calib"])
        artifacts.write_csv(path, rows, settings)
    pooled = found[found["layer"] == "all"]
    print(pooled[["method", "region", "neurons", "expected", "kept_share", "layer_kept_share"]].to_string(index=False))


def neurons(statistics: pd.DataFrame, high: float, low: float, objective: str = "energy") -> pd.DataFrame:
    """One row per neuron, by layer and neuron: layer, unit, activation, gradient, region, expected_trap,
    expected_spike.

    activation: root mean square over tokens of down_proj's input; gradient: the same of the objective's gradient with
    respect to it ("kinetic gradient"). expected_*: the probability, under independence, of lying in the region."""
    frame = statistics.sort_values(["layer", "unit"], ignore_index=True)
    made = frame[["layer", "unit"]].assign(
        activation=np.sqrt(frame["act_sq_sum"] / frame["n_tokens"]),
        gradient=np.sqrt(frame[f"{objective}_grad_sq_sum"] / frame["n_tokens"]),
    )
    layers = []
    for _, rows in made.groupby("layer"):
        region, trap, spike = regions(rows["activation"].to_numpy(), rows["gradient"].to_numpy(), high, low)
        layers.append(rows.assign(region=region, expected_trap=trap, expected_spike=spike))
    return pd.concat(layers)


def regions(activation: NDArray, gradient: NDArray, high: float, low: float) -> tuple[NDArray, float, float]:
    """Region of each neuron of one layer, str [n], and the shares of trap and spike under independence.

    trap: activation at or above its `high` quantile, gradient at or below its `low` quantile; spike: the reverse; rest:
    all others, and neurons that ties make both."""
    large_a, large_g = (x >= np.quantile(x, high) for x in (activation, gradient))
    small_a, small_g = (x <= np.quantile(x, low) for x in (activation, gradient))
    trap, spike = large_a & small_g, large_g & small_a
    region = np.select([trap & ~spike, spike & ~trap], REGIONS[:2], default=REGIONS[2])
    return region, large_a.mean() * small_g.mean(), large_g.mean() * small_a.mean()


def region_rows(frame: pd.DataFrame, methods: Sequence[str], confidence: float) -> pd.DataFrame:
    """What each method keeps of each region, a layer at a time and pooled (layer `all`).

    frame: `neurons` with columns keep_<method>, bool. Columns: layer, method, region, neurons, expected (neurons there
    if activation and gradient were independent), kept, kept_share, ci_low, ci_high (Wilson; NaN in an empty region),
    layer_kept_share (of all the layer's neurons)."""
    rows = []
    for layer, of_layer in [*frame.groupby("layer"), ("all", frame)]:
        expected = {name: of_layer[f"expected_{name}"].sum() for name in ("trap", "spike")}
        expected["rest"] = len(of_layer) - sum(expected.values())
        for method, region in product(methods, REGIONS):
            keep = of_layer[f"keep_{method}"]
            there = keep[of_layer["region"] == region]
            kept, count = int(there.sum()), len(there)
            low, high = significance.wilson(kept, count, confidence) if count else (np.nan, np.nan)
            row = {"layer": layer, "method": method, "region": region, "neurons": count, "expected": expected[region]}
            row |= {"kept": kept, "kept_share": kept / count if count else np.nan, "ci_low": low, "ci_high": high}
            rows.append({**row, "layer_kept_share": keep.mean()})
    return pd.DataFrame(rows)


def class_rows(token_classes: pd.DataFrame, frame: pd.DataFrame, analysed_layer: int) -> pd.DataFrame:
    """From which classes of tokens the measures of all, trap and spike neurons come, in all layers (`all`) and in one.

    token_classes: one row per neuron and class (columns.py); frame: `neurons`. Columns: layer, group, measure,
    token_class, share (of the group's total of the measure), token_share (of the tokens), ratio (share over
    token_share: 1 where the class gets what its number of tokens would give). NaN where there is nothing to divide by.
    """
    tagged = token_classes.merge(frame[["layer", "unit", "region"]], on=["layer", "unit"], validate="many_to_one")
    columns = list(MEASURES.values())
    totals = tagged.groupby(["layer", "region", "token_class"])[columns].sum().reset_index()
    one_neuron = token_classes[(token_classes["layer"] == analysed_layer) & (token_classes["unit"] == 0)]
    tokens = one_neuron.set_index("token_class")["n_tokens"].reindex(TOKEN_CLASSES)
    token_share = tokens / tokens.sum()
    rows = []
    for layer, group in product(("all", analysed_layer), GROUPS):
        there = (totals["layer"].eq(layer) | (layer == "all")) & (totals["region"].eq(group) | (group == "all"))
        sums = totals[there].groupby("token_class")[columns].sum().reindex(TOKEN_CLASSES, fill_value=0.0)
        for measure, column in MEASURES.items():
            share = sums[column] / sums[column].sum()  # pandas: 0 / 0 is NaN
            part = pd.DataFrame({"share": share, "token_share": token_share, "ratio": share / token_share})
            rows.append(part.rename_axis("token_class").reset_index().assign(layer=layer, group=group, measure=measure))
    order = ["layer", "group", "measure", "token_class", "share", "token_share", "ratio"]
    return pd.concat(rows, ignore_index=True)[order]


def with_masks(frame: pd.DataFrame, masks: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`neurons` with a bool column keep_<method> per mask, of the same neurons in the same order."""
    return frame.assign(**{f"keep_{method}": mask["keep"].to_numpy() for method, mask in masks.items()})
