"""The calibration pass against brute force: one sample at a time, in float64, gradients by another route."""

import copy
import re
from contextlib import ExitStack
from functools import partial

import measure
import merge_calibration
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from pruning.calibration import columns
from pruning.calibration.columns import TOKEN_CLASSES
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import micro_batches, sampled_positions, shard_of
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.core.objectives import OBJECTIVES
from pruning.models.checkpointing import checkpoint_gradients
from pruning.paper.observe import Observation
from pruning.paper.token_classes import vocabulary_classes

MODELS = {"qwen2": tiny.qwen2, "llama": tiny.llama}
BOTH = ("energy", "ce")
VOCABULARY = vocabulary_classes(tiny.tokenizer(), 257)
KEYS = ["layer", "unit", "token_class"]


def sequences(lengths=(12, 9, 16, 7, 10)) -> list[tuple[list[int], list[bool]]]:
    """Random tokens; all but the first four of a sample are its answer."""
    rng = np.random.default_rng(0)
    return [(rng.integers(1, 257, n).tolist(), [t >= 4 for t in range(n)]) for n in lengths]


def calibrate(model, samples, micro_batch=2, shard=(0, 1), token_mask="all", **options) -> Calibration:
    batches = micro_batches(samples, micro_batch, pad=0, token_mask=token_mask)
    with Calibration(model, **options) as run:
        run.run(shard_of(batches, *shard))
    return run


def observe(model, samples, micro_batch=2, token_mask="all", **options) -> Observation:
    with Observation(model, VOCABULARY, **{"layer": 0, "keep": {}, "objectives": ("energy",), **options}) as run:
        run.run(micro_batches(samples, micro_batch, pad=0, token_mask=token_mask))
    return run


def exact(model):
    """A copy in float64, norms included (transformers' own compute in float32)."""
    model = copy.deepcopy(model).double()

    def forward(norm, x):
        return norm.weight * x / (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()

    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = partial(forward, module)
    return model


def trace(model, ids: list[int]):
    """(down_proj inputs a, zero leaves added to them, hidden states between layers and after the last, the same after
    the final norm, logits)."""
    inputs, leaves, layers = [], [], model.model.layers

    def add_leaf(_, args):
        leaves.append(torch.zeros_like(args[0], requires_grad=True))
        inputs.append(args[0].detach()[0])
        return (args[0] + leaves[-1],)

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.mlp.down_proj.register_forward_pre_hook(add_leaf))
        calls = hooks.enter_context(tiny.watched([*layers, model.model.norm]))
        logits = model(torch.tensor([ids])).logits[0]
    [(_, normed)] = calls[-1]
    return inputs, leaves, [before[0] for [(before, _)] in calls], normed[0], logits


def by_token(model, samples, token_mask="all"):
    """Of each sample: its tokens, each layer's a [T, n], the gradient of each objective to it, and the hidden states
    between layers; in float64, by the definitions in docs/methods.md."""
    model = exact(model)
    for ids, answer in samples:
        inputs, leaves, hidden, after, logits = trace(model, ids)
        wanted = [t for t in range(len(ids)) if token_mask == "all" or answer[t]]
        rest = [t for t in wanted if t > 0]
        before, log_p = hidden[-1], logits.log_softmax(-1)
        surprise = [-log_p[t - 1, ids[t]] for t in wanted if t > 0]
        objectives = {
            "energy": sum((before[t] ** 2).sum() for t in wanted) / len(wanted) / 2,
            "energy_post": sum((after[t] ** 2).sum() for t in wanted) / len(wanted) / 2,
            "energy_last": (before[wanted[-1]] ** 2).sum() / 2,
            "energy_rest": sum((before[t] ** 2).sum() for t in rest) / len(rest) / 2,
            "ce": sum(surprise) / len(surprise),
        }
        gradients = {o: torch.autograd.grad(value, leaves, retain_graph=True) for o, value in objectives.items()}
        yield ids, inputs, {o: [g[0] for g in own] for o, own in gradients.items()}, [h.detach() for h in hidden]


def brute_force(model, samples, token_mask="all"):
    """(columns a layer, angular sum a layer), sample by sample."""
    layers = len(model.model.layers)
    sums = [dict.fromkeys(columns.neuron_columns(OBJECTIVES), 0) for _ in range(layers)]
    angular = [0.0] * layers
    for ids, inputs, gradients, hidden in by_token(model, samples, token_mask):
        for layer, a in enumerate(inputs):
            pairs = zip(hidden[layer], hidden[layer + 1], strict=True)
            angular[layer] += sum(torch.arccos(x @ y / (x.norm() * y.norm())).item() for x, y in pairs) / np.pi
            found = {"n_tokens": len(ids), "n_samples": 1, "act_sum": a.sum(0), "act_abs_sum": a.abs().sum(0)}
            found |= {"act_sq_sum": (a**2).sum(0), "act_mean_abs_sq_sum": a.abs().mean(0) ** 2}
            for objective, g in gradients.items():
                p = a * g[layer]
                own = {"net_abs": p.sum(0).abs(), "net_sq": p.sum(0) ** 2, "abs": p.abs().sum(0), "sq": (p**2).sum(0)}
                own |= {"share": p.abs().sum(0) / p.abs().sum(), "grad_sq": (g[layer] ** 2).sum(0)}
                found |= {f"{objective}_{name}_sum": value for name, value in own.items()}
            sums[layer] = {name: sums[layer][name] + value for name, value in found.items()}
    return sums, angular


def assert_close(found, expected, rtol=2e-4):
    """Up to float32 rounding: relative to the value, or to the column's largest where terms cancel."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-5 * np.abs(expected).max())


def assert_same_frames(a: Calibration, b: Calibration):
    for one, other in zip(a.frames(), b.frames(), strict=True):
        assert list(one.columns) == list(other.columns)
        for name in one.columns:
            assert_close(one[name], other[name])


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("token_mask", ["all", "answer"])
def test_every_column_is_its_definition(family, token_mask):
    model, samples = MODELS[family](), sequences()
    neurons, layers = calibrate(model, samples, token_mask=token_mask, objectives=tuple(OBJECTIVES)).frames()
    expected, angular = brute_force(model, samples, token_mask)
    names = columns.neuron_columns(OBJECTIVES)
    assert list(neurons.columns) == ["layer", "unit", *names]
    assert list(layers.columns) == ["layer", *columns.LAYER_COLUMNS]
    for layer, rows in neurons.groupby("layer"):
        assert rows["unit"].tolist() == list(range(48))
        for name in names:
            assert_close(rows[name], np.broadcast_to(expected[layer][name], 48))
    assert layers["layer"].tolist() == [0, 1]
    assert layers["n_tokens"].tolist() == [54, 54]
    assert_close(layers["angular_sum"], angular)


def test_the_objectives_and_token_masks_tell_apart():
    model, samples = tiny.qwen2(), sequences()
    plain, answer = (brute_force(model, samples, token_mask=mask)[0][0] for mask in ("all", "answer"))
    different = [plain[f"{o}_abs_sum"] for o in OBJECTIVES] + [answer["energy_abs_sum"]]
    for number, one in enumerate(different):
        for other in different[:number]:
            assert not np.allclose(one, other, rtol=0.01)


def test_net_utility_is_the_first_order_effect_of_ablating_a_neuron():
    """E with a neuron's activation scaled by 1 - eps, by finite differences: its slope is sum_t a g."""
    model, samples = tiny.qwen2(), sequences(lengths=(12,))
    neurons, _ = calibrate(model, samples, objectives=("energy_post",)).frames()
    slope = neurons.set_index(["layer", "unit"])["energy_post_net_abs_sum"]
    twin = exact(model)

    def energy(layer: int, neuron: int, scale: float) -> float:
        weights = twin.model.layers[layer].mlp.down_proj.weight
        kept = weights[:, neuron].clone()
        weights[:, neuron] *= scale  # the same as scaling the activation
        hidden = twin.model(torch.tensor([samples[0][0]]))[0][0]
        weights[:, neuron] = kept
        return 0.5 * hidden.square().sum(-1).mean().item()

    for layer, neuron in [(0, 0), (0, 17), (1, 5), (1, 47)]:
        eps = 1e-4
        difference = (energy(layer, neuron, 1 + eps) - energy(layer, neuron, 1 - eps)) / (2 * eps)
        assert slope[layer, neuron] == pytest.approx(abs(difference), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("micro_batch", [2, 5])
def test_padding_changes_nothing(micro_batch):
    model, samples = tiny.qwen2(), sequences()
    asked = {"token_mask": "answer", "objectives": tuple(OBJECTIVES)}
    assert_same_frames(calibrate(model, samples, micro_batch, **asked), calibrate(model, samples, 1, **asked))


@pytest.mark.parametrize("family", MODELS)
def test_gradient_checkpointing_changes_nothing(family):
    plain, checkpointed = MODELS[family](), MODELS[family]()
    checkpoint_gradients(checkpointed)
    forwards = []
    checkpointed.model.layers[0].mlp.gate_proj.register_forward_hook(lambda *_: forwards.append(1))
    asked = {"micro_batch": 5, "objectives": ("energy", "energy_post", "ce")}
    expected, found = (calibrate(m, sequences(), **asked) for m in (plain, checkpointed))
    assert_same_frames(found, expected)
    assert len(forwards) == 4  # once, and again in each of three backward passes: it did checkpoint


def test_objectives_can_be_left_out():
    model, samples = tiny.qwen2(), sequences()
    both = calibrate(model, samples).frames()[0]
    alone = calibrate(model, samples, objectives=("energy",)).frames()[0]
    assert not [name for name in alone if name.startswith("ce_")]
    for name in alone:
        assert_close(alone[name], both[name])


def test_sampled_activations_are_the_hooked_ones():
    model, samples = tiny.llama(), sequences()
    batches = micro_batches(samples, 2, pad=0, token_mask="all")
    keep = sampled_positions(batches, 20, seed=3)
    run = observe(model, samples, layer=1, keep=keep)
    assert len(run.kept) == 20
    assert {(row["sample"], row["position"]) for row in run.kept} == {(s, t) for s, ts in keep.items() for t in ts}
    for row in run.kept:
        ids = samples[row["sample"]][0]
        assert row["token"] == ids[row["position"]]
        np.testing.assert_allclose(row["activation"], trace(model, ids)[0][1][row["position"]], rtol=1e-4, atol=1e-5)
    types = {field.name: str(field.type) for field in pa.Table.from_pylist(run.kept).schema}
    assert types == {**dict.fromkeys(["sample", "position", "token"], "int64"), "activation": "list<item: float>"}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("token_mask", ["all", "answer"])
def test_token_classes_are_their_definition(family, token_mask):
    """Sums of a, |a|, a^2 and |a g| over each class's tokens, sample by sample, in float64."""
    model, expected = MODELS[family](), []
    found = observe(model, sequences(), token_mask=token_mask, objectives=BOTH).class_frame()
    assert list(found.columns) == [*KEYS, *columns.token_class_columns(BOTH)]
    for ids, inputs, gradients, _ in by_token(model, sequences(), token_mask):
        for layer, a in enumerate(inputs):
            parts = {"n_tokens": torch.ones_like(a), "act_abs_sum": a.abs(), "act_sq_sum": a**2}
            parts |= {f"{objective}_abs_sum": (a * gradients[objective][layer]).abs() for objective in BOTH}
            for t, token in enumerate(ids):
                name = "first" if t == 0 else TOKEN_CLASSES[VOCABULARY[token]]
                keys = {"layer": layer, "unit": range(48), "token_class": name}
                expected.append(pd.DataFrame(keys | {column: value[t].numpy() for column, value in parts.items()}))
    expected = pd.concat(expected).groupby(KEYS).sum()
    assert expected.index.get_level_values("token_class").nunique() >= 5  # the samples have nearly every class
    expected = expected.reindex(pd.MultiIndex.from_frame(found[KEYS]), fill_value=0.0)
    for name in columns.token_class_columns(BOTH):
        assert_close(found[name], expected[name])


def test_token_classes_add_up_to_the_statistics_with_checkpoints_too():
    model = tiny.qwen2()
    neurons = calibrate(model, sequences(), micro_batch=5).frames()[0].set_index(["layer", "unit"])
    checkpoint_gradients(model)
    run = observe(model, sequences(), micro_batch=5, objectives=BOTH)
    sums = run.class_frame().drop(columns="token_class").groupby(["layer", "unit"]).sum()
    for name in columns.token_class_columns(BOTH):
        assert_close(sums[name], neurons[name], rtol=1e-5)


def settings_of(**changes) -> dict:
    own = {"samples": 4, "sequence_length": 32, "packing": "concat", "seed": 0, "objectives": BOTH, "micro_batch": 2}
    own |= {"gradient_checkpointing": False, "prompt": "{text}", "completion": ""}
    return {**tiny.CALIBRATION, "token_mask": "all", **own, **changes}


def test_the_stages_write_what_they_say(tmp_path):
    tiny.save(tiny.qwen2(layers=3), tmp_path / "model")
    text = "He had 3 apples + 4. " * 8
    artifacts.write_parquet(tmp_path / "data.parquet", pd.DataFrame({"text": [text]}), "dataset", {})
    files, merged = (tmp_path / "model", tmp_path / "data.parquet"), tmp_path / "merged"
    shards = [tmp_path / str(shard) for shard in range(2)]
    for number, shard in enumerate(shards):
        outputs = [shard / "statistics.parquet", shard / "layers.parquet"]
        measure.measure("gradients", outputs, settings_of(shards=2, shard=number), *files)
    merge_calibration.merge_calibration(settings_of(shards=2), shards, merged)
    assert sorted(path.name for path in merged.iterdir()) == ["layers.parquet", "statistics.parquet"]
    outputs = [tmp_path / f"{name}.parquet" for name in ("activations", "token_classes")]
    measure.measure("paper/observe", outputs, settings_of(tokens=9, layer=None), *files)
    assert artifacts.read_provenance(outputs[0])["settings"]["layer"] == 1
    kept = artifacts.read_table(outputs[0], "activations").to_pylist()
    assert len(kept) == 9
    assert [(row["sample"], row["position"]) for row in kept] == sorted((r["sample"], r["position"]) for r in kept)
    classes = artifacts.read_parquet(outputs[1], "token_classes")
    assert list(classes.columns) == [*KEYS, *columns.token_class_columns(BOTH)] and len(classes) == 3 * 48 * 6
    tokens = classes[(classes["layer"] == 0) & (classes["unit"] == 0)].set_index("token_class")["n_tokens"]
    expected = dict.fromkeys(TOKEN_CLASSES, 0)
    for start in range(0, 128, 32):
        for t, character in enumerate(text[start : start + 32]):
            token = tiny.tokenizer()(character)["input_ids"][0]
            expected["first" if t == 0 else TOKEN_CLASSES[VOCABULARY[token]]] += 1
    assert tokens.to_dict() == expected
    total = artifacts.read_parquet(merged / "statistics.parquet", "statistics")
    sums = classes.drop(columns="token_class").groupby(["layer", "unit"], as_index=False).sum()
    for name in columns.token_class_columns(BOTH):
        assert_close(sums[name], total[name], rtol=1e-5)


def hooks_of(model) -> list:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind).values()]


def test_the_model_is_left_as_it_was_and_no_weight_has_a_gradient_during_the_pass():
    model, seen = tiny.qwen2(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hook = model.model.norm.register_forward_hook(lambda *_: seen.extend(p.requires_grad for p in model.parameters()))
    calibrate(model, sequences())
    hook.remove()
    assert len(seen) == 3 * len(list(model.parameters())) and not any(seen)
    assert hooks_of(model) == []
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("module", "place", "poison", "options", "message"),
    [
        ("model.layers.1.mlp.up_proj", (7, 3), NAN, {}, "activations of layer 1 at calibration sample 0"),
        ("model.layers.1.mlp.up_proj", (7, 3), INF, {}, "activations of layer 1 at calibration sample 0"),
        ("model.embed_tokens", 200, NAN, {"micro_batch": 4}, "activations of layer 0 at calibration sample 3"),
        ("lm_head", (0, 0), NAN, {"shard": (1, 2)}, "the objective ce at calibration sample 2"),
        # huge and finite: the objective stays finite, the gradient's square does not
        ("model.norm", ..., 1e17, {"objectives": ("energy_post",)}, "gradients of layer 1 (objective energy_post) at"),
    ],
)
def test_what_is_not_finite_is_named(module, place, poison, options, message):
    """Token 200 is in the last sample alone."""
    model, samples = tiny.llama(), [([5, 6, 7], [True] * 3)] * 3 + [([5, 200, 7], [True] * 3)]
    model.get_submodule(module).weight[place] = poison
    with pytest.raises(InputError, match=re.escape(f"NaN or Inf in {message}")):
        calibrate(model, samples, **options)
    assert hooks_of(model) == []


@pytest.fixture(scope="module")
def sharded():
    """shards -> (neurons, layers) merged, of ten samples in micro-batches of two."""
    model, samples = tiny.qwen2(), sequences(lengths=(12, 9, 16, 7, 10, 5, 11, 8, 13, 6))
    merged = {}
    for shards in (1, 2, 5):
        runs = [calibrate(model, samples, shard=(shard, shards)).frames() for shard in range(shards)]
        neurons, layers = zip(*runs, strict=True)
        merged[shards] = columns.merge(neurons, ["layer", "unit"]), columns.merge(layers, ["layer"])
    return merged


@pytest.mark.parametrize("shards", [2, 5])
def test_shards_add_up_to_the_whole(sharded, shards):
    for whole, merged in zip(sharded[1], sharded[shards], strict=True):
        assert list(whole.columns) == list(merged.columns)
        np.testing.assert_allclose(merged, whole, rtol=1e-12, atol=1e-12 * np.abs(whole).max().max())
    assert sharded[shards][0]["n_samples"].unique().tolist() == [10]
    assert sharded[shards][0]["n_tokens"].unique().tolist() == [97]


@pytest.mark.parametrize("shards", [2, 5])
def test_rankings_do_not_depend_on_the_shards(sharded, shards):
    """So neither do masks at any sparsity: of RKU's shares, over all layers."""
    found = []
    for neurons, _ in (sharded[1], sharded[shards]):
        share = neurons.groupby("layer")["energy_abs_sum"].transform(lambda utility: utility / utility.sum())
        found.append(np.argsort(-share, kind="stable").tolist())
    assert found[0] == found[1]


def shard(seed: int) -> pd.DataFrame:
    """A made-up shard: columns over many orders of magnitude, one of them of both signs."""
    rng = np.random.default_rng(seed)
    keys = {"layer": np.repeat([0, 1], 3), "unit": np.tile(range(3), 2)}
    return pd.DataFrame({**keys, "act_sum": rng.normal(size=6), "energy_abs_sum": 10 ** rng.uniform(-9, 9, 6)})


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_merging_is_the_same_in_any_order_and_partition(groups, random):
    frames = [shard(seed) for seed in range(len(groups))]
    whole = columns.merge(frames, ["layer", "unit"])
    order = list(range(len(groups)))
    random.shuffle(order)
    parts = [[frames[i].sample(frac=1, random_state=i) for i in order if groups[i] == g] for g in set(groups)]
    random.shuffle(parts)
    nested = columns.merge([columns.merge(part, ["layer", "unit"]) for part in parts], ["layer", "unit"])
    assert nested[["layer", "unit"]].equals(whole[["layer", "unit"]])
    for name in ("act_sum", "energy_abs_sum"):
        size = sum(frame[name].abs() for frame in frames)
        assert (np.abs(nested[name] - whole[name]) <= 1e-12 * size).all()
        assert (np.abs(whole[name] - sum(frame[name] for frame in frames)) <= 1e-12 * size).all()


def test_merging_refuses_shards_of_another_model():
    with pytest.raises(ValueError, match="different neurons or columns"):
        columns.merge([shard(0), shard(1).iloc[:5]], ["layer", "unit"])
    with pytest.raises(ValueError, match="different neurons or columns"):
        columns.merge([shard(0), shard(1).rename(columns={"act_sum": "other"})], ["layer", "unit"])
