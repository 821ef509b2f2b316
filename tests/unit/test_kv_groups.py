"""Key-value groups, and layers without an FFN or attention: measured, scored, refitted, counted and pruned again."""

import json
import shutil

import compact as compact_stage
import fetch_model
import mask as mask_stage
import numpy as np
import pandas as pd
import pytest
import score as score_stage
import test_budget
import torch
from test_refit import SCHEMES
from test_sensitivity import divergence
from test_structures import CUTS, DROPPED, close

import tiny
from pruning.analysis import shapes, timing
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import as_batches
from pruning.calibration.second_moments import token_counts
from pruning.config.default import DEFAULT
from pruning.config.methods import Method
from pruning.core import artifacts, layer_files
from pruning.core.errors import InputError
from pruning.methods import allocation, compact, masks, refit, requirements, rounds, sensitivity, variants
from pruning.methods.compact import Pruning
from pruning.methods.compensation import ridge
from pruning.models import families
from pruning.models.checkpoint import Checkpoint
from pruning.models.loading import load
from pruning.models.structures import ffn, kv_groups
from tiny import logits

N = 48
KEEPS = CUTS["groups"]
GROUP = (16 + 8 + 8) * (32 + 1) + 16 * 32
"""Parameters, d = 32: 16 rows of q, 8 of k and v with a bias each, 16 columns of o; a neuron has 3 * 32."""


def batches_of(samples=10):
    ids = torch.tensor(np.array([np.random.default_rng(n).integers(1, 257, 24) for n in range(samples)]))
    return as_batches(ids.split(2))


# Measured


def test_a_dropped_ffn_is_measured_as_such():
    assert sensitivity.levels(N, 0)[-2:] == [3, 0] and sensitivity.levels(0, 0) == []
    dense, dropped, batches = tiny.qwen2(3), tiny.qwen2(3), batches_of()

    def fit(layer, order):
        return lambda kept: ffn.sites(dense)[layer].weight.numpy()[:, order[:kept]]

    probe = sensitivity.Probe(dense, batches, [np.arange(N, dtype=float)] * 3, [45, 0, 45], fit)
    rows = list(sensitivity.layers(probe))
    assert [row[:2] for row in rows][-2] == (1, 0)
    ffn.shrink(dropped.model.layers[1], 1, [None, np.zeros(N, dtype=bool)], families.of(dropped))
    assert rows[-2][2] == pytest.approx(divergence(tiny.qwen2(3), dropped, batches), rel=2e-3)


def test_times_are_measured_of_a_shape_without_an_ffn():
    dense, clock = tiny.qwen2(), {"prompt_tokens": 4, "decode_tokens": 2, "rounds": 1, "warmup": 0, "seed": 0}
    narrow = shapes.narrowed(dense, {"ffn": [0, 20]})
    assert [site.in_features for site in ffn.sites(narrow)] == [0, 20]
    for index, layer in enumerate(dense.model.layers):
        ffn.shrink(layer, index, tiny.keeps(0, 20)["ffn"], families.of(dense))
    assert narrow.num_parameters() == dense.num_parameters()
    samples = timing.measure({"dense": dense, "narrow": narrow}, clock)
    assert (samples[["prefill_s", "decode_s"]] > 0).all(axis=None)


def test_a_budget_may_take_a_whole_ffn(tmp_path):
    place = test_budget.laid(tmp_path, tiny.qwen2())
    scores = artifacts.read_parquet(place / "scores.parquet", "scores")
    scores["score"] += 100 * scores["layer"]
    (place / "scores.parquet").unlink()
    artifacts.write_parquet(place / "scores.parquet", scores, "scores", {})
    settings = test_budget.asked("parameters", "75%", allocate="global", drop_layers=True)
    del settings["min_keep"]
    answer, base = test_budget.found(place, settings), Checkpoint(place / "base")
    assert answer["widths"][0] == 0 < answer["widths"][1] < N
    assert answer["cost"]["value"] == compact.parameters(base, {"ffn": answer["widths"]})
    least = compact.parameters(base, {"ffn": [0, 1]})
    with pytest.raises(InputError, match=rf"the least is {least}, at 99%$"):
        test_budget.found(place, settings | {"text": "1", "value": 1, "share": False})


# Scored by attention's own moments


@pytest.fixture
def measured(tmp_path):
    """Matrices as the calibration's, of 48 neurons and 32 channels, no two alike: options that name them; tensors."""
    rng, options, made = np.random.default_rng(0), {}, {}
    for prefix, width in (("", N), ("attention_", 32)):
        draw = {"second_moments": (("fit", width), ("held_out", width)), "output_gradients": (("gradients", 32),)}
        for kind, tensors in draw.items():
            roots = [{name: rng.normal(size=(2 * size, size)) for name, size in tensors} for _ in range(2)]
            made[prefix + kind] = [
                {n: torch.from_numpy(np.float32(r.T @ r)) for n, r in each.items()} for each in roots
            ]
            options[prefix + kind] = write_moments(tmp_path, prefix + kind, made[prefix + kind], width)
    rows = pd.DataFrame([(layer, unit) for layer in (0, 1) for unit in range(N)], columns=["layer", "unit"])
    artifacts.write_parquet(tmp_path / "statistics.parquet", rows, "statistics", {})
    options["statistics"] = f"statistics={tmp_path / 'statistics.parquet'}"
    tiny.fetched(tmp_path / "base", tiny.qwen2())
    return options, made


def write_moments(folder, kind, tensors, width) -> str:
    content = {"tokens_fit": 70, "tokens_held_out": 30, "tokens": 90, "layers": 2, "widths": [width] * 2}
    path = folder / f"{kind}.json"
    layer_files.write(path, kind, {}, [dict(each) for each in tensors], content)
    return f"{kind}={path}"


def scored(folder, evidence, score: str, options=None, structures=("ffn", "kv_groups")) -> pd.DataFrame:
    settings = {"score": score, "options": options or {}, "normalise": "none", "shuffle": None}
    score_stage.score(settings, folder / "base", folder / "scores.parquet", list(evidence.values()), list(structures))
    return artifacts.read_parquet(folder / "scores.parquet", "scores")


@pytest.mark.parametrize("metric", ["fisher", "output"])
def test_groups_are_scored_by_attentions_own_moments(tmp_path, measured, metric):
    evidence, made = measured
    found = scored(tmp_path, evidence, "obs", {"metric": metric})
    groups, neurons = (masks.by_layer(masks.of(found, kind), "score") for kind in ("kv_groups", "ffn"))
    alone = scored(tmp_path, evidence, "obs", {"metric": metric}, ["ffn"])
    assert "structure" not in alone and np.array_equal(np.concatenate(neurons), alone["score"])
    model = load(tmp_path / "base", "float32", "cpu")[0]
    for layer, values in enumerate(groups):
        second = sum(m.double().numpy() for m in made["attention_second_moments"][layer].values()) / 100
        root = np.linalg.cholesky(second + 1e-3 * second.diagonal().mean() * np.eye(32))  # ‖D root‖² = tr(D S Dᵀ)
        gradients = made["attention_output_gradients"][layer]["gradients"].double().numpy()
        target = kv_groups.sites(model)[layer].weight.double().numpy() @ root
        if metric == "fisher":
            target = np.linalg.cholesky(gradients).T @ target
        losses = []
        for stay in (slice(16, 32), slice(0, 16)):  # without the first group, without the second
            fit = np.linalg.lstsq(root[stay].T, target.T, rcond=None)[0].T @ root[stay]
            losses.append(0.5 * np.square(target - fit).sum())
        first = int(np.argmin(losses))
        assert values[first] == pytest.approx(losses[first], rel=1e-4)
        last = max(losses[first], 0.5 * np.square(target).sum() - losses[first])
        assert values[1 - first] == pytest.approx(last, rel=1e-4)


def test_a_groups_leverage_is_its_channels(tmp_path, measured):
    evidence, made = measured
    groups = masks.by_layer(masks.of(scored(tmp_path, evidence, "leverage"), "kv_groups"), "score")
    for values, moments in zip(groups, made["attention_second_moments"], strict=True):
        second = sum(own.double().numpy() for own in moments.values())
        smoother = second @ np.linalg.inv(second + second.diagonal().mean() * np.eye(32))
        assert values == pytest.approx([np.trace(smoother[:16, :16]), np.trace(smoother[16:, 16:])], rel=1e-5)


def test_moments_of_attention_that_are_missing_or_anothers_are_refused(tmp_path, measured):
    evidence, made = measured
    lacking = {kind: option for kind, option in evidence.items() if kind != "attention_output_gradients"}
    with pytest.raises(InputError, match="score 'obs' needs attention_output_gradients"):
        scored(tmp_path, lacking, "obs")
    write_moments(tmp_path, "attention_second_moments", made["second_moments"], N)
    with pytest.raises(InputError, match=r"attention second moments of another model: .* not \[32, 32\]"):
        scored(tmp_path, evidence, "obs")


def test_scores_say_whether_they_can_score_groups():
    for name in ("cfsp", "magnitude", "rounds"):
        with pytest.raises(
            ValueError, match=f"which score '{name}' cannot; .*leverage, minitron, obs, parameter_taylor"
        ):
            Method(score=name, allocate="joint")
    assert DEFAULT.method("attention_obs_joint").compensate == "ridge_attention"


def test_whatever_a_method_cuts_is_named_where_it_is_refused(monkeypatch):
    monkeypatch.setattr(allocation, "structures_of", lambda _: ("ffn", "heads"))
    for wrong, message in (({"score": "cfsp"}, "scores `heads` as well"), ({"export": "pad"}, "prunes `heads`, which")):
        with pytest.raises(ValueError, match=message):
            Method(**{"score": "wanda", "allocate": "joint", **wrong})


MOMENTS = "second_moments output_gradients attention_second_moments attention_output_gradients"
OF_PER_DECODE = {"score": "obs", "allocate": "sensitivity_joint", "compensate": "ridge_attention"}
OF_PER_DECODE["allocate_options"] = {"per": "decode"}
READS = [  # a method, what its stages read, and the passes that it takes
    ({"score": "wanda"}, {"score": "statistics"}, "shards"),
    (
        {"score": "leverage", "allocate": "cfsp_refill"},
        {"score": "second_moments", "mask": "layers"},
        "second_moments shards",
    ),
    ({"score": "leverage"}, {"score": "second_moments"}, "second_moments"),
    (
        {"score": "random", "allocate": "joint", "compensate": "bias"},
        {"score": "statistics attention", "compact": "statistics"},
        "shards attention",
    ),
    (
        {"score": "parameter_taylor", "allocate": "joint", "compensate": "ridge"},
        {"score": "parameter_taylor attention_parameter_taylor", "compact": "second_moments"},
        "parameter_taylor attention_parameter_taylor second_moments",
    ),
    (
        {"score": "rounds", "allocate": "greedy", "compensate": "ridge_corrective"},
        {"score": "rounds", "sensitivity": "second_moments", "mask": "sensitivity", "compact": "refit"},
        "rounds second_moments",
    ),
    (
        OF_PER_DECODE,
        {"score": MOMENTS, "sensitivity": "second_moments attention_second_moments"}
        | {"mask": "sensitivity latency_table", "compact": "refit"},
        f"{MOMENTS} latency_table",
    ),
]


@pytest.mark.parametrize(("method", "kinds", "passes"), READS)
def test_what_a_method_reads_follows_from_what_its_plug_ins_say(method, kinds, passes):
    own = Method(**method)
    for stage in ("score", "sensitivity", "mask", "compact"):
        assert requirements.kinds(own, stage) == kinds.get(stage, "").split(), stage
    assert requirements.passes(own) == passes.split()


# Refitted


@pytest.mark.parametrize("cut", ["uneven", "groups", *DROPPED])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_left_is_refitted_and_is_in_every_way_to_a_model(tmp_path, scheme, cut):
    """Around a dropped layer too; in memory and where another tool reads."""
    keeps, batches = CUTS[cut], batches_of()
    layers, kept = len(keeps["ffn"]), masks.counts(keeps)
    network, base = tiny.qwen2(layers), tiny.fetched(tmp_path / "base", tiny.qwen2(layers))
    found = list(refit.refit(network, batches, keeps, scheme))
    for number, (weights, record) in enumerate(found):
        sizes = {"down": kept["ffn"][number], "attention": 16 * kept.get("kv_groups", [2] * layers)[number]}
        assert weights.keys() == record.keys() == ({"down", "attention"} if scheme == "attention" else {"down"})
        for name, fitted in record.items():
            assert weights[name].shape == (32, sizes[name])
            assert fitted["held_out_error"] <= fitted["held_out_error_uncompensated"]
            assert sizes[name] or fitted["lambda"] == "inf"
    content = {**token_counts(batches), "widths": kept["ffn"], "layers": layers}
    content["records"] = [record for _, record in found]
    evidence = tmp_path / "refit.json"
    layer_files.write(evidence, "refit", {}, [weights for weights, _ in found], content)
    mask = tiny.write_mask(tmp_path / "mask.parquet", keeps)
    own = variants.Parts(base, base / "manifest.json", mask, f"ridge_{scheme}", evidence)
    close(logits(own.load("float32", "cpu")[0]), logits(network))
    with own.written("float32") as folder:
        close(logits(load(folder, "float32", "cpu")[0]), logits(network))


@pytest.mark.filterwarnings("error")
def test_nothing_is_left_to_carry_what_a_dropped_ffn_did():
    down, rng = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32), np.random.default_rng(1)
    moments = {part: (a := rng.normal(size=(40, 5))).T @ a for part in ("fit", "held_out")}
    made = ridge.compensate(down, np.zeros(5, dtype=bool), {**moments, "tokens_fit": 40, "tokens_held_out": 40})
    assert made.weight.shape == (8, 0)
    assert made.record == {"lambda": "inf", "held_out_error": 1.0, "held_out_error_uncompensated": 1.0}


# Pruned again


def test_sparsity_counts_groups_removed_in_an_earlier_iteration(tmp_path):
    """Through the stages: pruned in neurons and groups, taken as a base, pruned again in neurons."""
    base = tiny.fetched(tmp_path / "base", tiny.qwen2())

    def cut(model, mask, name):
        made = tmp_path / name, tmp_path / f"{name}.json"
        settings = {"compensate": "none", "export": "exact"}
        compact_stage.compact(settings, model, model / "manifest.json", mask, *made)
        return json.loads(made[1].read_text())

    once = cut(base, tiny.write_mask(tmp_path / "mask.parquet", KEEPS), "first")
    gone = (28 + 17 + GROUP / 96) / 96
    assert once["achieved_sparsity"] == pytest.approx(gone)
    again = tmp_path / "again/manifest.json"
    fetch_model.fetch_model({"kind": "pruned"}, again, tmp_path / "first", tmp_path / "first.json")
    assert variants.Parts(again.parent, again).pruned()["achieved_sparsity"] == pytest.approx(gone)
    units = [(layer, unit) for layer, width in enumerate((20, 31)) for unit in range(width)]
    scores = pd.DataFrame(units, columns=["layer", "unit"]).assign(score=1.0)
    artifacts.write_parquet(tmp_path / "scores.parquet", scores, "scores", {})
    method = {"allocate": "uniform", "options": {}, "round_to": 1, "min_keep": 0.01}
    for sparsity, expected in ((40, gone), (80, 0.8)):
        mask = tmp_path / f"{sparsity}.parquet"
        mask_stage.mask(method, tmp_path / "scores.parquet", again, sparsity, mask)
        made = cut(again.parent, mask, f"at-{sparsity}")
        assert made["achieved_sparsity"] == pytest.approx(expected, abs=1 / 96)
        assert made["kv_groups"] == once["kv_groups"] == [1, 2]
        masked = variants.Parts(again.parent, again, mask)
        assert masked.pruned()["achieved_sparsity"] == pytest.approx(made["achieved_sparsity"])


@pytest.mark.parametrize("cut", DROPPED)
def test_a_model_without_some_of_its_layers_is_pruned_again(tmp_path, cut):
    """Measured, scored, masked, refitted, cut: of a layer without an FFN there is no row anywhere."""
    keeps, batches = CUTS[cut], batches_of()
    first = tiny.written(Pruning(Checkpoint(tiny.save(tiny.qwen2(3), tmp_path / "base")), keeps), tmp_path / "first")
    own, network, left = Checkpoint(first), load(first, "float32", "cpu")[0], masks.counts(keeps)
    with Calibration(network, ["energy", "ce"]) as run:
        run.run(batches)
    statistics, layers = run.frames()
    assert statistics.groupby("layer").size().to_dict() == {n: width for n, width in enumerate(left["ffn"]) if width}
    assert not statistics.isna().any(axis=None)
    assert [len(losses) for losses in rounds.losses(network, batches, 0)] == own.widths == left["ffn"]
    scores = statistics[["layer", "unit"]].assign(score=statistics["ce_abs_sum"])
    problem = allocation.problem_of(scores, layers, {"original": {"widths": [N] * 3}}, 0.01)
    kept = allocation.units(problem, 90, {"allocate": "global", "options": {}, "round_to": 1})["ffn"]
    assert (kept <= left["ffn"]).all() and kept.sum() == allocation.kept(N * 3, 90)
    rows = scores.assign(keep=np.concatenate(allocation.masks(problem.scores, kept)))[["layer", "unit", "keep"]]
    artifacts.write_parquet(mask := tmp_path / "again.parquet", rows, "mask", {})
    again = masks.read(mask, first)
    assert masks.counts(again)["ffn"] == kept.tolist() and [len(keep) for keep in again["ffn"]] == left["ffn"]
    with pytest.raises(InputError, match="not a mask of .*: layer widths"):
        masks.read(mask, tmp_path / "base")
    second = tiny.written(Pruning(own, again), tmp_path / "second")
    expected = logits(tiny.silenced(load(first, "float32", "cpu")[0], {"ffn": again["ffn"]}))
    close(logits(load(second, "float32", "cpu")[0]), expected)
    assert json.loads((second / "config.json").read_text())["kv_groups"] == left["kv_groups"]
    shutil.rmtree(tmp_path / "base")
    refits = refit.refit(network, batches, again, "attention")
    assert [weights["down"].shape[1] for weights, _ in refits] == kept.tolist()


def test_rows_of_a_structure_are_by_layer_and_unit_however_a_file_has_them():
    """Two masks are held against each other row by row."""
    plain = pd.DataFrame({"layer": [1, 0, 0], "unit": [0, 1, 0], "keep": [True, False, True]}, index=[7, 8, 9])
    found = masks.of(plain, "ffn")
    assert found.index.tolist() == [0, 1, 2] and found["keep"].tolist() == [True, False, True]
    assert masks.of(plain, "kv_groups").empty
    both = pd.concat([plain.assign(structure="ffn"), plain.iloc[:1].assign(structure="kv_groups", keep=False)])
    assert len(masks.of(both, "ffn")) == 3 and masks.of(both, "kv_groups")["keep"].tolist() == [False]
