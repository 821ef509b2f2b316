"""The figures, on synthetic tables of the analyses' columns: what is drawn, how it looks, and equal bytes."""

import warnings
from functools import cache
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.markers import MarkerStyle
from matplotlib.text import Text
from PIL import Image
from scipy.special import expit

import report
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.paper import trap
from pruning.paper.figures import collapse, fig1, fig2, fig3
from pruning.report import figures
from pruning.report import widths as kept_widths
from pruning.report.figures import alternatives, latency, recovery, style, tradeoff, widths
from pruning.report.files import Files

METHODS = ["wanda", "flap", "taylor_fo", "cfsp", "agf", "rku", "random"]
MANY = [
    *("wanda", "wanda_global", "flap", "taylor_fo", "taylor_fo_uniform", "cfsp", "cfsp_as_code", "agf", "rku"),
    *("rku_uniform", "minitron", "random"),
]
MODELS = ["tiny-reasoner", "smollm2-135m"]
SPARSITIES = [10, 20, 30, 40, 50, 60, 70, 80, 90]
LAYERS = 30


def settings(methods=METHODS, models=MODELS[:1], **more):
    return {"methods": list(methods), "models": list(models), **more}


def grid(**levels):
    """Every combination, of one calibration."""
    return pd.DataFrame(product(*levels.values()), columns=[*levels]).assign(calib="gsm")


def spectrum_tables(methods, models):
    curves, summary = [], []
    for model, (i, method), rule in product(models, enumerate(["dense", *methods]), ("equal", "own")):
        index = np.arange(1, 201 if rule == "equal" or i % 3 else 201 + 8 * i)
        values = index ** (-0.4 - 0.07 * i) * np.exp(-(index - 1) / (60 + 10 * i))
        energy, share = np.cumsum(values**2) / (values**2).sum(), values / values.sum()
        name = {"model": model, "calib": "gsm", "layer": 5, "sparsity": 0.4, "method": method, "width_rule": rule}
        summary.append({**name, "effective_rank": np.exp(-(share * np.log(share)).sum())})
        curves.append(pd.DataFrame({"index": index, "singular_value": values, "energy": energy}).assign(**name))
    return {"spectrum": pd.concat(curves, ignore_index=True), "summary": pd.DataFrame(summary)}


def region_tables(methods, models, neurons=2000):
    random = np.random.default_rng(0)
    activation = random.lognormal(0, 1, neurons)
    gradient = 1e-3 * activation**0.4 * random.lognormal(0, 0.9, neurons)
    region, *_ = trap.regions(activation, gradient, 0.9, 0.5)
    frame = pd.DataFrame({"layer": 5, "activation": activation, "gradient": gradient, "region": region})
    frame = grid(model=models).merge(frame, how="cross")
    rows = grid(model=models, method=methods, region=("trap", "spike", "rest"), layer=("5", "all"))
    i, pooled = rows["method"].map(methods.index), rows["layer"] == "all"
    kept = np.where(rows["region"] == "trap", 0.95 - 0.06 * i, 0.2 + 0.06 * i)
    rows = rows.assign(kept_share=np.where(pooled, 0.5, kept), ci_low=kept - 0.12, ci_high=(kept + 0.1).clip(max=1))
    rows = rows.assign(sparsity=0.4, neurons=[(region == own).sum() for own in rows["region"]], expected=0.05 * neurons)
    rows["layer_kept_share"] = 0.6 - 0.01 * i * ~pooled
    shares = {"first": (0.05, 0.4, 0.06, 0.04), "digit": (0.2, 0.1, 0.42, 0.4), "operator": (0.08, 0.05, 0.22, 0.2)}
    shares |= {"function": (0.3, 0.1, 0.1, 0.15), "punctuation": (0.17, 0.15, 0.1, 0.11), "other": (0.2, 0.2, 0.1, 0.1)}
    measures = ("act_sq", "energy_abs", "ce_abs")
    classes = grid(model=models, layer=("all", "5"), token_class=shares, measure=measures).assign(group="all")
    own = zip(classes["token_class"], classes["measure"], classes["layer"], strict=True)
    classes["share"] = [shares[kind][1 + measures.index(measure)] / len(layer) for kind, measure, layer in own]
    classes["token_share"] = [shares[kind][0] for kind in classes["token_class"]]
    return {"neurons": frame, "regions": rows, "classes": classes}


def overlap_tables(methods, models):
    pairs = [("rku", method) for method in methods if method != "rku"][:5]
    rows = grid(model=models, pair=pairs, sparsity=SPARSITIES, layer=range(LAYERS))
    i, removed = rows["pair"].map(pairs.index), rows["sparsity"] / 100
    chance = (1 - removed) / (1 + removed)
    alike = (0.85 - 0.15 * i) * (1 - 0.6 * removed * rows["layer"] / LAYERS)
    rows = rows.assign(sparsity=removed, chance=chance, iou=chance + (1 - chance) * alike - 0.05 * (i == 4))
    rows[["first", "second"]] = rows["pair"].tolist()
    published = grid(model=models[:1], sparsity=SPARSITIES, layer=(np.nan, 26)).assign(
        first="RKU", second="Wanda-Struct"
    )
    published["value"] = (0.95 - 0.006 * published["sparsity"]).where(published["layer"].isna(), 0.1)
    published = published.assign(first_presets="rku;rku_uniform", second_presets="wanda;wanda_global")
    return {"overlap": rows, "published": published.assign(sparsity=published["sparsity"] / 100)}


def accuracy_tables(methods, models, task="options", chance=0.2):
    name = {"task": task, "metric": "acc", "n": 400}
    rows = grid(model=models, method=methods, sparsity=[0, *SPARSITIES]).assign(**name)
    i, removed = rows["method"].map(methods.index), rows["sparsity"] / 100
    middle, width = 0.2 + 0.6 * i / len(methods), 0.05 + 0.01 * (i % 3)
    value = chance + (0.84 - chance) * expit((middle - removed) / width) + 0.01 * np.sin(3.0 * i + rows["sparsity"])
    value = value.clip(0.002, 0.99).where(removed > 0, 0.84)
    spread = 1.96 * np.sqrt(value * (1 - value) / 400)
    rows = rows.assign(
        sparsity=removed, value=value, ci_low=(value - spread).clip(0), ci_high=(value + spread).clip(upper=1)
    )
    points = rows[removed == 0].assign(dense=0.84, chance=chance, collapse=middle, width=width, censored=False)
    points = points.assign(ci_low=points["collapse"] - 0.02, ci_high=points["collapse"] + 0.03)
    points.loc[points["method"].isin(methods[-2:]), "ci_high"] = np.nan
    beyond = {"collapse": np.nan, "ci_low": 0.85, "width": np.nan, "censored": True}
    points.loc[points["method"] == methods[-1], [*beyond]] = [*beyond.values()]
    return {"accuracy": rows, "collapse": points}


def width_tables(methods, models):
    rows = grid(model=models, method=methods, sparsity=(0.3, 0.5), layer=range(LAYERS))
    uniform = rows["method"].isin(["wanda", "taylor_fo_uniform", "rku_uniform", "minitron", "random"])
    wave = 0.3 * np.sin(rows["layer"] / 4 + 2 * rows["method"].map(methods.index))
    return {"widths": rows.assign(kept_share=(1 - rows["sparsity"] + wave.mask(uniform, 0)).clip(0.01, 1))}


def latency_tables(methods, models):
    pruned = grid(shape=models, sparsity=(30, 50, 70), method=methods)
    pruned["variant"] = [f"gsm/{row.method}/{row.sparsity}" for row in pruned.itertuples()]
    pruned["prefill_speedup"] = 1 + pruned["sparsity"] / (110 + 3 * pruned["method"].map(methods.index))
    uniform = grid(shape=[*models, "qwen2_5-7b"], sparsity=(25, 50, 75))
    uniform["variant"] = [f"uniform/{sparsity}" for sparsity in uniform["sparsity"]]
    uniform["prefill_speedup"] = 1 + (0.5 + 0.04 * uniform["shape"].str.len()) * uniform["sparsity"] / 90
    dense = grid(shape=models, sparsity=[0]).assign(variant="dense", prefill_speedup=1.0)
    frame = pd.concat([pruned, uniform, dense], ignore_index=True)[["shape", "variant", "sparsity", "prefill_speedup"]]
    frame = frame.assign(device="cpu", flop_ratio=1 / (1 - 0.008 * frame["sparsity"]), sparsity=frame["sparsity"] / 100)
    return {
        "latency": between(frame, "prefill_speedup"),
        "accuracy": accuracy_tables(methods, models, "gsm_symbolic", 0.0)["accuracy"],
    }


def between(frame, *columns):
    """With the ends of intervals around these."""
    ends = (("low", 0.97), ("high", 1.04))
    return frame.assign(**{f"{name}_{end}": factor * frame[name] for name in columns for end, factor in ends})


def tradeoff_tables(methods, models):
    """The best of the methods at each sparsity is on every front; `ridge_` and recovered models are among them."""
    own = [*methods, f"ridge_{methods[0]}"]
    rows = grid(model=models, method=own, sparsity=(0.3, 0.5)).assign(tuning=None)
    rows["value"] = 0.8 - rows["sparsity"] / 2 - 0.03 * rows["method"].map(own.index)
    dense = grid(model=models, method=["dense"], sparsity=[0.0]).assign(value=0.84)
    tuned = grid(model=models, method=methods[:1], sparsity=[0.5]).assign(value=0.6, tuning="gsm")
    frame = pd.concat([dense, rows, tuned], ignore_index=True)
    removed, value = frame["sparsity"], frame["value"]
    frame = frame.assign(ci_low=value - 0.05, ci_high=value + 0.05, bytes=1000 * (1 - 0.7 * removed))
    frame = frame.assign(prefill_speedup=1 + removed, decode_speedup=1 + removed / 2)
    best = (removed == 0) | frame["tuning"].notna() | (frame["method"] == methods[0]) & (removed == 0.3)
    marks = {f"{cost}_front": np.where(best, "front", "behind") for cost in ("size", "prefill", "decode")}
    return {"tradeoff": between(frame, "prefill_speedup", "decode_speedup").assign(**marks)}


def alternative_tables(methods, models):
    stored = {"f16": 16, "q8_0": 8, "q4_k_m": 4, "q3_k_m": 3}
    rows = grid(model=models, method=["dense", *methods], type=stored)
    i, bits = rows["method"].map(["dense", *methods].index), rows["type"].map(stored)
    rows = rows.assign(column="gsm", of=rows["model"], tuning=None, sparsity=0.3 * (i > 0))
    rows = rows.assign(value=0.8 - 0.02 * i - 0.3 / bits, type=rows["type"].replace("f16", None))
    rows = rows.assign(ci_low=rows["value"] - 0.05, ci_high=rows["value"] + 0.05, bytes=1e8 * bits * (1 - 0.02 * i))
    return {"rows": rows.assign(prefill_speedup=1 + 0.02 * i, decode_speedup=(1 + 0.02 * i) * 16 / bits)}


def recovery_tables(methods, models):
    rows = grid(model=models, method=methods, tuning=("gsm_train", "alpaca"), step=range(1, 301)).assign(sparsity=0.4)
    i, noise = rows["method"].map(methods.index), np.random.default_rng(0).normal(0, 0.06, len(rows))
    return {"log": rows.assign(loss=0.4 + 0.03 * i + 1.2 * np.exp(-rows["step"] / (30 + 5 * i)) + noise)}


DRAWS = {
    "fig1": (fig1.draw, spectrum_tables, {}),
    "fig2": (fig2.draw, region_tables, {}),
    "fig3": (fig3.draw, overlap_tables, {"pair": ["rku", "wanda"]}),
    "collapse": (collapse.draw, accuracy_tables, {"titles": {"options": "Five options"}}),
    "widths": (widths.draw, width_tables, {"sparsity": 0.5}),
    "latency": (latency.draw, latency_tables, {"titles": {"gsm_symbolic": "sums"}}),
    "tradeoff": (tradeoff.draw, tradeoff_tables, {"title": "Sums", "kind": "accuracy"}),
    "recovery": (recovery.draw, recovery_tables, {}),
    "alternatives": (
        alternatives.draw,
        alternative_tables,
        {"task": "gsm", "tuning": None, "title": "Sums", "kind": "accuracy"},
    ),
}


@cache
def made(name, many=False):
    """Tables and settings of one figure."""
    methods, models = (MANY, MODELS) if many else (METHODS, MODELS[:1])
    _, build, more = DRAWS[name]
    return build(methods, models), settings(methods, models, **more)


@cache
def as_made(name, many):
    return laid_out(name, *made(name, many))


def drawn(name, tables=None, many=False, **changes):
    """The figure, drawn and laid out, and whatever warning there is as an error."""
    if tables is None and not changes:
        return as_made(name, many)
    own, chosen = made(name, many)
    return laid_out(name, own if tables is None else tables, chosen | changes)


def laid_out(name, tables, chosen):
    with warnings.catch_warnings(), style.figure_style():
        warnings.simplefilter("error")
        figure = DRAWS[name][0](tables, chosen)
        figure.draw_without_rendering()
    return figure


def panels(figure):
    """Axes, each once, in the order made; colour bars come with them."""
    return [axis for axis in figure.findobj(Axes) if axis.get_visible()]


def panel(figure, title):
    (found,) = [axis for axis in panels(figure) if axis.get_title(loc="left").startswith(title)]
    return found


def line(axis, color, skip=0):
    """x and y of an axis' first line in a colour, but for the first `skip`."""
    return [of.get_data() for of in axis.lines if of.get_color() == color][skip]


RKU, WANDA = style.METHODS["rku"].color, style.METHODS["wanda"].color


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("name", DRAWS)
def test_every_figure_fits_its_text(name, many):
    """No warning (an error in `drawn`), nothing cut at the edge, no text on another, no legend on data."""
    figure = drawn(name, many=many)
    box = figure.bbox
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    ticks = {id(text) for axis in panels(figure) for text in axis.get_xticklabels() + axis.get_yticklabels()}
    for text in texts:
        if id(text) not in ticks:  # a tick outside the limits has a place, and is not drawn
            extent = text.get_window_extent()
            assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, text.get_text()
            assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, text.get_text()
        assert text.get_fontsize() >= 8, text.get_text()
    placed = [text for text in texts if id(text) not in ticks]
    for a, b in combinations(placed, 2):
        one, other = (text.get_window_extent().padded(-1) for text in (a, b))
        assert not one.overlaps(other), (a.get_text(), b.get_text())
    frames = [axis.get_window_extent() for axis in panels(figure)]
    for legend in figure.findobj(Legend):
        assert not any(legend.get_window_extent().padded(-1).overlaps(frame) for frame in frames)


def test_fig1_draws_the_spectra_of_equal_width():
    spectrum = made("fig1")[0]["spectrum"].query("method == 'rku' and width_rule == 'equal'")
    figure = drawn("fig1")
    values = spectrum["singular_value"].to_numpy()
    x, y = line(panel(figure, "(a)"), RKU)
    assert (x == spectrum["index"]).all() and y == pytest.approx(values / values[0])
    x, y = line(panel(figure, "(b)"), RKU)
    left = 1 - spectrum["energy"].to_numpy()
    assert y == pytest.approx(100 * left[left >= 1e-4]) and len(x) < len(left)
    ranks = made("fig1")[0]["summary"].query("method == 'rku'").set_index("width_rule")["effective_rank"]
    axis = panel(figure, "(c)")
    assert line(axis, RKU, 1)[0] == ranks["equal"] and line(axis, RKU, 2)[0] == ranks["own"] != ranks["equal"]


def test_fig1_leaves_out_neurons_that_are_never_active():
    tables = made("fig1")[0]
    spectrum, summary = tables["spectrum"].copy(), tables["summary"].copy()
    spectrum.loc[spectrum["method"] == "rku", ["singular_value", "energy"]] = 0.0
    summary.loc[summary["method"] == "rku", "effective_rank"] = np.nan
    axis = panel(drawn("fig1", {"spectrum": spectrum, "summary": summary}), "(a)")
    assert len(axis.lines) == len(METHODS) and RKU not in [of.get_color() for of in axis.lines]


def test_fig2_draws_regions_kept_shares_and_classes():
    tables = made("fig2")[0]
    figure = drawn("fig2")
    axis = panel(figure, "(a) Neurons of layer 5")
    neurons = tables["neurons"]
    for points, region in zip(axis.collections, ("rest", "trap", "spike"), strict=True):
        assert np.array_equal(
            points.get_offsets(), neurons.loc[neurons["region"] == region, ["activation", "gradient"]]
        )
    count = (neurons["region"] == "trap").sum()
    assert axis.get_legend().texts[0].get_text() == f"trap: {count} neurons, by chance 100"
    kept = panel(figure, "(b) Kept at 40%")
    assert [text.get_text() for text in kept.get_yticklabels()] == [style.label(method) for method in METHODS]
    first_trap = line(kept, "#332288")
    assert first_trap[0] == pytest.approx([95]) and line(kept, style.INK)[0] == pytest.approx([60, 60])
    classes = panel(figure, "(c)")
    assert [bar.get_width() for bar in classes.patches] == pytest.approx([5, 20, 8, 30, 17, 20])
    assert line(classes, "#D55E00")[0] == pytest.approx([6, 42, 22, 10, 10, 10])


def test_fig3_draws_means_over_layers_chance_and_the_published_means():
    overlap = made("fig3")[0]["overlap"].query("second == 'wanda'")
    axis = panel(drawn("fig3"), "(a)")
    mean = overlap.groupby("sparsity")[["iou", "chance"]].mean()
    curve, chance, *_ = axis.lines
    assert (curve.get_xdata() == SPARSITIES).all() and curve.get_ydata() == pytest.approx(mean["iou"].to_numpy())
    assert chance.get_ydata() == pytest.approx(mean["chance"].to_numpy()) and chance.get_linestyle() == "--"
    published = axis.lines[-1]
    assert published.get_markerfacecolor() == "none"
    assert np.transpose(published.get_data()) == pytest.approx(np.array([(s, 0.95 - 0.006 * s) for s in SPARSITIES]))
    other = drawn("fig3", {**made("fig3")[0], "published": made("fig3")[0]["published"].assign(model="another")})
    assert len(panel(other, "(a)").lines) == len(axis.lines) - 1


def test_fig3_heat_map_is_of_the_pair_asked_for_with_the_first_layer_below():
    rows = made("fig3")[0]["overlap"].query("second == 'agf'")
    rows = rows.assign(sparsity=(100 * rows["sparsity"]).round()).set_index(["layer", "sparsity"])
    expected = rows["iou"] - rows["chance"]
    axis = panel(drawn("fig3", pair=["rku", "agf"]), "(b) RKU / AGF")
    grid = axis.collections[0].get_array().reshape(LAYERS, len(SPARSITIES))
    assert grid[-1, 0] == pytest.approx(expected[0, 10]) and grid[0, -1] == pytest.approx(expected[LAYERS - 1, 90])
    assert axis.yaxis_inverted() and axis.get_yticks()[0] == LAYERS - 0.5  # sns.heatmap draws downwards
    assert axis.get_yticklabels()[0].get_text() == "0"


def test_collapse_draws_accuracies_fit_and_arrows():
    tables = made("collapse")[0]
    figure = drawn("collapse")
    upper = panel(figure, "Five options")
    rows = tables["accuracy"].query("task == 'options' and method == 'wanda' and sparsity > 0")
    x, y = line(upper, WANDA)
    assert x == pytest.approx(100 * rows["sparsity"].to_numpy()) and y == pytest.approx(100 * rows["value"].to_numpy())
    (fits,) = [of for of in upper.lines if of.get_color() == WANDA and len(of.get_xdata()) == 200]
    halfway = np.interp(20, *fits.get_data())  # wanda collapses at 0.2
    assert halfway == pytest.approx(100 * (0.84 + 0.2) / 2, abs=0.1)
    assert line(upper, "#000000")[0] == pytest.approx([0])  # the dense model: once
    lower = panels(figure)[-1]
    assert line(lower, WANDA)[0] == pytest.approx([20])
    censored = line(lower, style.METHODS["random"].color)
    assert censored[0] == pytest.approx([90])
    assert len(lower.texts) == 2 and all(arrow.xy[0] == 99 for arrow in lower.texts)  # rku's interval and random


def test_collapse_has_methods_of_the_background_in_grey():
    figure = drawn("collapse", background=["wanda"])
    for axis in (panel(figure, "Five options"), panels(figure)[-1]):
        colors = {of.get_color() for of in axis.lines}
        assert WANDA not in colors and {style.FAINT, RKU} <= colors
    (handle,) = [h for h in figure.legends[0].legend_handles if h.get_label() == "Wanda-Struct"]
    assert handle.get_color() == style.FAINT


def test_widths_are_the_tables_and_uniform_methods_flat():
    widths = made("widths")[0]["widths"].query("sparsity == 0.5").pivot(index="method", columns="layer")
    axis = panel(drawn("widths"), "What each layer keeps at 50%")
    grid = np.asarray(axis.collections[0].get_array()).reshape(len(METHODS), LAYERS)
    np.testing.assert_allclose(grid, 100 * widths["kept_share"].loc[METHODS])
    assert np.ptp(grid[0]) == 0


def test_latency_joins_accuracy_and_time_of_each_variant():
    tables = made("latency")[0]
    axis = panel(drawn("latency"), "(a)")
    x, y = line(axis, RKU)
    of_rku = tables["latency"].set_index("variant")["prefill_speedup"]
    assert x == pytest.approx([100 / of_rku[f"gsm/rku/{sparsity}"] for sparsity in (30, 50, 70)])
    accuracy = tables["accuracy"].query("task == 'gsm_symbolic' and method == 'rku'").set_index("sparsity")["value"]
    assert y == pytest.approx([100 * accuracy[s] for s in (0.3, 0.5, 0.7)])
    bound = panel(drawn("latency"), "(b)")
    uniform = tables["latency"].query("shape == 'qwen2_5-7b'")
    found = [of for of in bound.lines if np.array_equal(of.get_ydata(), uniform["prefill_speedup"])]
    assert np.array_equal(found[0].get_xdata(), uniform["flop_ratio"])


def test_tradeoff_draws_every_model_at_its_cost_and_joins_the_front():
    frame = made("tradeoff")[0]["tradeoff"]
    figure = drawn("tradeoff")
    for title, of in (
        ("(a)", 100 * frame["bytes"] / 1000),
        ("(b)", 100 / frame["prefill_speedup"]),
        ("(c)", 100 / frame["decode_speedup"]),
    ):
        axis = panel(figure, title)
        points = {(round(x, 6), round(y, 6)) for drawn in axis.lines for x, y in zip(*drawn.get_data(), strict=True)}
        assert {(round(x, 6), round(100 * y, 6)) for x, y in zip(of, frame["value"], strict=True)} <= points
        (front,) = [of for of in axis.lines if of.get_drawstyle() == "steps-post"]
        best = frame["size_front"] == "front"
        joined = sorted(zip(of[best], 100 * frame.loc[best, "value"], strict=True))
        np.testing.assert_allclose(sorted(zip(*front.get_data(), strict=True)), joined)
        assert {text.get_text() for text in axis.texts} == {"1", "2"}  # dense has its own marker
    named = [text.get_text() for text in figure.findobj(Text)]
    assert "On a front: 1 Wanda-Struct, recovered, 50%; 2 Wanda-Struct, 30%" in named


def test_tradeoff_of_perplexities_is_logarithmic():
    frame = made("tradeoff")[0]["tradeoff"]
    worse = frame.assign(**{name: 10 / frame[name] for name in ("value", "ci_low", "ci_high")})
    figure = drawn("tradeoff", {"tradeoff": worse}, kind="perplexity")
    assert {axis.get_yscale() for axis in panels(figure)} == {"log"}


@pytest.mark.parametrize("ends", [(0.94, 1.18), (55, 130), (60, 275), (1, 2000)])
def test_a_logarithmic_axis_has_ticks_whatever_its_range(ends):
    axis = Figure().subplots()
    axis.plot(ends, ends)
    style.log(axis, "xy")
    for of_axis in (axis.xaxis, axis.yaxis):
        low, high = of_axis.get_view_interval()
        assert len([place for place in of_axis.get_majorticklocs() if low <= place <= high]) >= 3


def test_an_axis_says_its_unit_once_in_lines_that_fit():
    title = "GSM8K solutions, bits per byte (pieces of 1024 bytes)"
    assert style.quality({"title": title, "kind": "bits"}) == "GSM8K solutions, bits per byte\n(pieces of 1024 bytes)"
    assert style.quality({"title": "Sums", "kind": "accuracy"}) == "Sums\naccuracy (%)"


def test_recovery_draws_every_step():
    log = made("recovery")[0]["log"].query("method == 'rku' and tuning == 'alpaca'")
    x, y = line(panel(drawn("recovery"), "Tuned on alpaca"), RKU)
    assert (x == log["step"]).all() and (y == log["loss"]).all()
    _, smooth = line(panel(drawn("recovery"), "Tuned on alpaca"), RKU, 1)
    assert smooth[100] == np.median(log["loss"].iloc[93:108])  # of 300 steps a twentieth


def test_recovery_has_a_row_of_panels_a_sparsity():
    log = made("recovery")[0]["log"]
    tables = {"log": pd.concat([log, log.assign(sparsity=0.3)], ignore_index=True)}
    assert len(panels(drawn("recovery", tables))) == 2 * len(panels(drawn("recovery"))) == 4


def grey(color):
    """Relative luminance, ITU-R BT.709."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return np.dot((0.2126, 0.7152, 0.0722), linear)


def test_methods_differ_in_colour_and_in_grey():
    unknown = [f"shuffle_{i}" for i in range(8)]
    looks = style.styles([*style.METHODS, *unknown])
    assert len({(look.color, str(look.marker), look.hollow) for look in looks.values()}) == len(looks)
    for (a, one), (b, other) in combinations(looks.items(), 2):
        # In grey: by shape or filling of the marker.
        assert (str(one.marker), one.hollow) != (str(other.marker), other.hollow), (a, b)
    for look in looks.values():
        MarkerStyle(look.marker)
        assert grey(look.color) < 0.5, look  # dark enough on white
    # Fixed: whatever else is drawn beside it.
    assert style.styles(["new", "rku"])["rku"] == style.styles(["rku"])["rku"] == looks["rku"]
    assert looks["dense"].color == "#000000" and len(set(to_rgb(looks["random"].color))) == 1


def test_a_second_calibration_is_a_row_of_its_own():
    tables, chosen = made("widths")
    both = pd.concat([tables["widths"], tables["widths"].assign(calib="text", kept_share=0.25)])
    figure = drawn("widths", {"widths": both})
    grids = [c.get_array() for axis in panels(figure) for c in axis.collections if c.get_array() is not None]
    assert any((np.asarray(grid) == 25).all() and grid.size == LAYERS * len(METHODS) for grid in grids)


def test_the_command_joins_tables_and_repeats_its_bytes(tmp_path):
    tables, chosen = made("fig2", many=True)
    arguments = []
    for name, frame in tables.items():
        for model, rows in frame.groupby("model"):
            path = tmp_path / f"{name}-{model}.{'parquet' if name == 'neurons' else 'csv'}"
            if name == "neurons":  # says in its provenance alone of which model it is
                origin = {"model": model, "calib": "gsm"}
                artifacts.write_parquet(path, rows.drop(columns=["model", "calib"]), "trap", origin)
            else:
                artifacts.write_csv(path, rows, {})
            arguments.append(f"{name}={path}")
    pd.testing.assert_frame_equal(
        figures.read(Files(arguments))["neurons"][tables["neurons"].columns],
        tables["neurons"].sort_values("model", ignore_index=True, kind="stable"),
    )
    files = [(tmp_path / f"{i}.svg", tmp_path / f"{i}.png") for i in range(2)]
    for svg, png in files:
        report.report(chosen, "paper/figures/fig2", [svg, png], arguments)
    assert files[0][0].read_bytes() == files[1][0].read_bytes()
    assert files[0][1].read_bytes() == files[1][1].read_bytes()
    assert b"<dc:date>" not in files[0][0].read_bytes()
    with Image.open(files[0][1]) as image:
        assert image.width == pytest.approx(7.2 * 200, abs=1) and image.info["dpi"][0] == pytest.approx(200, abs=0.1)


def test_the_papers_numbers_need_no_record_and_all_others_do(tmp_path):
    (tmp_path / "widths.csv").touch()
    with pytest.raises(InputError, match="widths.csv: lacks widths.csv.json"):
        figures.read(Files([f"widths={tmp_path}/widths.csv"]))
    assert len(figures.read(Files(["published=resources/paper/table4.csv"]))["published"]) > 0


@pytest.mark.parametrize("structure", [{}, {"structure": "experts"}], ids=["neurons", "experts"])
def test_widths_are_those_of_the_masks_at_a_sparsity_as_a_fraction(tmp_path, structure):
    mask = pd.DataFrame({"layer": [1, 0, 0, 0, 0], "unit": [0, 0, 1, 2, 3], "keep": [True, True, False, True, True]})
    mask = mask.assign(**structure)
    artifacts.write_parquet(tmp_path / "m-c-rku-20.parquet", mask, "mask", {})
    given = settings(["rku"], ["m"], calib="c", sparsities=[20])
    files = Files([f"masks={tmp_path}/{{model}}-{{calib}}-{{method}}-{{sparsity}}.parquet"])
    kept_widths.write(files, given, [tmp_path / "widths.csv"])
    found = pd.read_csv(tmp_path / "widths.csv").to_dict("split", index=False)
    assert found["columns"] == ["model", "calib", "method", "sparsity", "layer", "width", "dense_width", "kept_share"]
    assert found["data"] == [["m", "c", "rku", 0.2, 0, 3, 4, 0.75], ["m", "c", "rku", 0.2, 1, 1, 1, 1]]
