"""Regions of constructed neurons, and shares of token classes by hand."""

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from pruning.calibration.columns import TOKEN_CLASSES
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.paper import trap
from pruning.report.files import Files

METHODS = ["greedy", "none"]
SETTINGS = {"model": "m", "calib": "c", "methods": METHODS, "sparsity": 40, "high": 0.75, "low": 0.25}
SETTINGS |= {"objective": "energy", "confidence": 0.95, "layer": None}
# Layer 0: eight neurons; activation's upper quartile is 5.25, its lower 1.75, and the gradient's the same.
ACTIVATION = {0: [7, 6, 5, 4, 3, 2, 1, 0], 1: [3, 2, 1, 0], 2: [1, 1, 1, 1]}
GRADIENT = {0: [0, 7, 1, 2, 3, 4, 5, 6], 1: [0, 1, 2, 3], 2: [1, 1, 1, 1]}
REGION = {
    0: ["trap", *["rest"] * 6, "spike"],
    1: ["trap", "rest", "rest", "spike"],
    2: ["rest"] * 4,  # constant: every neuron is both large and small
}
TOKENS = 10.0
CLASS_TOKENS = dict(zip(TOKEN_CLASSES, [1, 2, 0, 3, 3, 1], strict=True))


def statistics() -> pd.DataFrame:
    frames = []
    for layer, a in ACTIVATION.items():
        sums = {"act_sq_sum": TOKENS * np.square(a), "energy_grad_sq_sum": TOKENS * np.square(GRADIENT[layer])}
        frames.append(pd.DataFrame({"layer": layer, "unit": range(len(a)), "n_tokens": TOKENS, **sums}))
    return pd.concat(frames)


def test_regions_by_hand():
    frame = trap.neurons(statistics().sample(frac=1, random_state=0), 0.75, 0.25)
    for layer, rows in frame.groupby("layer"):
        assert rows["unit"].tolist() == list(range(len(rows)))
        assert rows["activation"].tolist() == pytest.approx(ACTIVATION[layer])
        assert rows["gradient"].tolist() == pytest.approx(GRADIENT[layer])
        assert rows["region"].tolist() == REGION[layer]


def test_independent_neurons_are_as_many_as_expected():
    rng = np.random.default_rng(0)
    region, share, _ = trap.regions(rng.random(40_000), rng.random(40_000), 0.8, 0.3)
    assert share == pytest.approx(0.2 * 0.3, rel=1e-3)
    assert (region == "trap").mean() == pytest.approx(share, rel=0.05)


def masks() -> dict[str, pd.DataFrame]:
    """`greedy` keeps the larger half of the activations, `none` no neuron."""
    keys = statistics()[["layer", "unit"]]
    large = [a[i] >= np.median(a) for a in ACTIVATION.values() for i in range(len(a))]
    return {"greedy": keys.assign(keep=large), "none": keys.assign(keep=False)}


def test_what_is_kept_of_each_region_by_hand():
    frame = trap.with_masks(trap.neurons(statistics(), 0.75, 0.25), masks())
    rows = trap.region_rows(frame, ["greedy", "none"], 0.95)
    assert len(rows) == 4 * 2 * 3
    assert (rows.groupby(["layer", "method"])["expected"].sum() == [8, 8, 4, 4, 4, 4, 16, 16]).all()
    rows = rows.set_index(["layer", "method", "region"])
    # Layer 0: 2 of 8 are large, 2 small, in each; layer 1: 1 of 4; layer 2: all are both.
    assert rows["expected"].xs(("greedy", "trap"), level=(1, 2)).tolist() == [0.5, 0.25, 4, 4.75]
    assert rows["expected"].xs(("none", "spike"), level=(1, 2)).tolist() == [0.5, 0.25, 4, 4.75]
    assert rows["neurons"].xs("greedy", level=1).tolist() == [1, 1, 6, 1, 1, 2, 0, 0, 4, 2, 2, 12]
    assert rows["kept"].xs("greedy", level=1).tolist() == [1, 0, 3, 1, 0, 1, 0, 0, 4, 2, 0, 8]
    assert (rows["kept"].xs("none", level=1) == 0).all()
    pooled = rows.loc[("all", "greedy")]
    assert pooled["kept_share"].tolist() == pytest.approx([1, 0, 2 / 3])
    assert pooled["layer_kept_share"].tolist() == pytest.approx([10 / 16] * 3)
    low, high = proportion_confint(8, 12, method="wilson")
    assert pooled.loc["rest", ["ci_low", "ci_high"]].tolist() == pytest.approx([low, high])
    assert rows.loc[(2, "greedy", "trap"), ["kept_share", "ci_low", "ci_high"]].isna().all()


def token_classes() -> pd.DataFrame:
    """|a| by class: neurons of layer 1 have (neuron + 1) in digits and 1 in `other`, layer 0 has 1 in `first`."""
    units = statistics()[["layer", "unit"]]
    classes = pd.DataFrame({"token_class": CLASS_TOKENS.keys(), "n_tokens": CLASS_TOKENS.values()})
    frame = units.merge(classes, how="cross")
    digit = (frame["unit"] + 1) * (frame["token_class"] == "digit") + (frame["token_class"] == "other")
    first = (frame["token_class"] == "first").astype(float)
    frame["act_abs_sum"] = np.select([frame["layer"] == 1, frame["layer"] == 0], [digit, first], 0.0)
    return frame.assign(act_sq_sum=frame["n_tokens"], energy_abs_sum=0.0, ce_abs_sum=first)


def test_shares_of_token_classes_by_hand():
    rows = trap.class_rows(token_classes().sample(frac=1, random_state=0), trap.neurons(statistics(), 0.75, 0.25), 1)
    assert len(rows) == 2 * 3 * 4 * 6
    assert rows["token_class"].tolist() == list(TOKEN_CLASSES) * 24
    by = rows.set_index(["layer", "group", "measure", "token_class"]).sort_index()
    assert by.loc[(1, "all", "act_abs"), "share"].to_dict() == pytest.approx(
        {name: 0 for name in TOKEN_CLASSES} | {"digit": 10 / 14, "other": 4 / 14}
    )
    assert by.loc[(1, "trap", "act_abs", "digit"), "share"] == pytest.approx(1 / 2)  # neuron 0: 1 and 1
    assert by.loc[(1, "spike", "act_abs", "digit"), "share"] == pytest.approx(4 / 5)  # neuron 3: 4 and 1
    assert by.loc[(1, "spike", "act_abs", "digit"), ["token_share", "ratio"]].tolist() == pytest.approx([0.2, 4])
    first = trap.class_rows(token_classes(), trap.neurons(statistics(), 0.75, 0.25), 0)
    assert first[(first["layer"] == 0) & (first["token_class"] == "first")]["share"].iloc[0] == 1
    # Pooled, the traps are neuron 0 of layers 0 and 1: 1 in `first`, 1 in digits, 1 in other.
    assert by.loc[("all", "trap", "act_abs", "first"), "share"] == pytest.approx(1 / 3)
    assert by.loc[("all", "all", "act_abs", "first"), "share"] == pytest.approx(8 / 22)
    everywhere = by.xs("act_sq", level=2)
    assert everywhere["ratio"].drop("operator", level=-1).tolist() == pytest.approx([1] * 30)
    assert everywhere["ratio"].xs("operator", level=-1).isna().all()  # no such token
    assert by.xs("energy_abs", level=2)["share"].isna().all()  # nothing to share


def run(folder, **changes):
    """Of files whose rows are in any order."""
    own = {"statistics": statistics(), "token_classes": token_classes()}
    for name, frame in {**own, **masks()}.items():
        kind = name if name in own else "mask"
        artifacts.write_parquet(folder / f"{name}.parquet", frame.sample(frac=1, random_state=1), kind, {})
    files = [f"{name if name in own else 'masks'}={folder}/{name}.parquet" for name in (*own, *masks())]
    outputs = [folder / name for name in ("neurons.parquet", "regions.csv", "classes.csv")]
    trap.write(Files(files), {**SETTINGS, **changes}, outputs)
    return artifacts.read_parquet(outputs[0], "trap"), *map(pd.read_csv, outputs[1:])


def test_the_stage(tmp_path):
    neurons, regions, classes = run(tmp_path)
    keeps = ["keep_greedy", "keep_none"]
    assert list(neurons) == ["layer", "unit", "activation", "gradient", "region", *keeps]
    assert neurons[keeps].dtypes.tolist() == [bool, bool] and neurons["keep_greedy"].sum() == 10
    shared = ["model", "calib", "layer"]
    intervals = ["kept_share", "ci_low", "ci_high", "layer_kept_share"]
    assert list(regions) == [*shared, "sparsity", "method", "region", "neurons", "expected", "kept", *intervals]
    assert list(classes) == [*shared, "group", "measure", "token_class", "share", "token_share", "ratio"]
    assert regions["layer"].unique().tolist() == ["0", "1", "2", "all"]
    assert classes["layer"].unique().tolist() == ["all", "1"]  # the last but one
    assert (regions[["model", "calib", "sparsity"]] == ["m", "c", 0.4]).all(axis=None)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="experiment.layer: 3 is out of range, the model has layers 0 to 2"):
        run(tmp_path, layer=3)
    assert not list(tmp_path.glob("*.csv"))
