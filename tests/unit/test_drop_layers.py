"""Depth as the limit of width: an FFN without neurons and attention without groups, against the dense model in which
all of them are silent.
"""

import json
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import test_budget
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_allocation import PROGRAMMES, SCHEMES, layer, problem, widths
from transformers import AutoModelForCausalLM

import tiny
from pruning.analysis import shapes, timing
from pruning.calibration import second_moments
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import micro_batches
from pruning.core import artifacts, layer_files
from pruning.core.errors import InputError
from pruning.evaluation import recovery
from pruning.methods import allocation, compact, masks, refit, rounds, sensitivity, variants
from pruning.methods.allocation import Problem, joint, sensitivity_joint
from pruning.methods.allocation import sensitivity as programme
from pruning.methods.compensation import Compensated, bias, ridge
from pruning.models import families, packing, remote_code
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import FAMILIES
from pruning.models.gguf import model as gguf_model
from pruning.models.loading import load
from pruning.models.pruned import from_pruned
from pruning.models.structures import ffn, kv_groups

LAYERS, N = 3, 48
TEXT = [3, 77, 250, 14, 9, 120, 33, 8, 201, 5, 66, 17]
IDS = torch.tensor([TEXT, [0] * 5 + TEXT[:7]])  # the second is padded on the left
REAL = torch.tensor([[1] * 12, [0] * 5 + [1] * 7])
NONE, SOME, ALL = np.zeros(N, dtype=bool), np.arange(N) % 3 > 0, np.ones(N, dtype=bool)
NO_GROUP, ONE, BOTH = np.array([False, False]), np.array([False, True]), np.array([True, True])
CASES = {
    "the first layer's": ([NONE, SOME, ALL], [NO_GROUP, BOTH, ONE]),
    "others'": ([SOME, NONE, NONE], [ONE, NO_GROUP, BOTH]),
}
WITHOUT_GROUPS = ("olmo2", "phi3")


def masked(model, neurons, groups):
    """Hooks that silence what leaves: the neurons' activations, and what the groups' heads hand on."""
    cut = list(zip(ffn.sites(model), neurons, strict=True))
    for site, keep in zip(kv_groups.sites(model), groups, strict=True) if groups else ():
        cut.append((site, np.repeat(keep, site.in_features // len(keep))))
    for site, keep in ((site, torch.tensor(keep)) for site, keep in cut):
        site.register_forward_pre_hook(lambda _, args, keep=keep: (args[0] * keep,))
    return model


@torch.inference_mode()
def logits(model, ids=IDS, real=REAL):
    """Of the tokens that are there."""
    return model(ids, attention_mask=real).logits[real.bool()]


def continued(model, ids=IDS, real=REAL, **options):
    """Greedily, with a cache."""
    plain = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, attention_mask=real, **plain, **options)[:, ids.shape[1] :].tolist()


def biased(family):
    """A tiny model with the biases on attention's and the FFN's output that its family can have."""
    model = tiny.of_family(family, LAYERS)
    keys = [key for key in ("attention_bias", "mlp_bias") if hasattr(model.config, key)]
    return tiny.of_family(family, LAYERS, **dict.fromkeys(keys, True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_cut_is_masked_on_disk_in_memory_and_by_the_code_that_is_written(tmp_path, family, case):
    neurons, groups = CASES[case]
    groups = None if family in WITHOUT_GROUPS else groups
    folder, output = tiny.save(biased(family), tmp_path / "base"), tmp_path / "cut"
    base, dense = Checkpoint(folder), masked(load(folder, "float32", "cpu")[0], neurons, groups)
    output.mkdir()
    compact.write_compact(base, output, neurons, groups=groups)
    written, in_memory = load(output, "float32", "cpu")[0], load(folder, "float32", "cpu")[0]
    compact.cut(in_memory, base, neurons, groups=groups)
    widths = [int(keep.sum()) for keep in neurons]
    assert compact.parameters(base, widths, groups=groups) == Checkpoint(output).parameters
    assert Checkpoint(output).parameters == sum(p.numel() for p in in_memory.parameters())
    shutil.rmtree(folder)
    by_code = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True)
    by_code.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    expected, texts = logits(dense), continued(dense)
    for attention in dict.fromkeys((dense.config._attn_implementation, "eager")):
        for model in (written, in_memory, by_code, again):
            model.set_attn_implementation(attention)
            torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
            assert continued(model) == texts


# What allocations leave


def groups_beside(sparsity):
    """Two layers of four neurons and two groups, a group as large as two neurons, and nothing safe."""
    scores = [np.array([9.0, 1.0, 5.0, 4.0]), np.array([0.8, 0.2, 0.6, 0.3])]
    groups = [np.array([1.0, 0.5]), np.array([30.0, 3.0])]
    size, least = np.array([4, 4]), np.array([0, 0])
    return Problem(scores, size, sparsity, np.ones(2), least, groups=groups, neurons_worth=2.0, least_groups=0)


@pytest.mark.parametrize(
    ("sparsity", "left", "counts"),
    [
        # By score for each neuron's worth: 30/2, 9, 5, 4, 3/2, 1, 0.8, 0.6, 1/2 (a group), 0.3, 0.5/2, 0.2.
        (50, [4, 2], [1, 2]),  # twelve neurons' worth: up to the group of 1/2
        (75, [4, 2], [0, 2]),  # ten: without it
        (99, [4, 0], [0, 2]),  # eight: up to the neuron of 1
    ],
)
def test_joint_takes_a_layers_last_group_and_its_last_neuron(sparsity, left, counts):
    own = groups_beside(sparsity)
    assert joint.widths(own).tolist() == left and joint.counts(own).tolist() == counts


def test_global_and_uniform_take_a_layers_last_neuron():
    assert widths("global", problem([[1, 2, 3], [4, 5, 6]], 50, min_keep=None)) == [0, 3]
    assert widths("uniform", problem([range(3), range(20)], 90, min_keep=None)) == [0, 2]
    assert allocation.finish(np.array([0.4, 1, 5.9]), problem([range(9)] * 3, 50, min_keep=None), 4).tolist() == [
        0,
        0,
        8,
    ]


@pytest.mark.parametrize("name", [name for name in SCHEMES if name not in ("cfsp", *PROGRAMMES)])
@given(st.lists(layer, min_size=1, max_size=4))
def test_masks_nest_down_to_nothing(name, scores):
    cuts = [(n, width, 0.0) for n, own in enumerate(scores) for width in sensitivity.levels(len(own), 0)]
    measured, at = pd.DataFrame(cuts, columns=["layer", "width", "divergence"]), []
    for sparsity in (1, 30, 60, 90, 99):
        own = replace(problem(scores, sparsity, min_keep=None), measured=measured)
        at.append(np.array(widths(name, own)))
        assert abs(at[-1].sum() - allocation.kept(own.sizes.sum(), sparsity)) <= (len(scores) + 1) / 2
    assert all((later <= earlier).all() for earlier, later in zip(at, at[1:], strict=False))


def test_a_mask_of_no_neuron_at_all_is_refused():
    own = problem([range(9)] * 2, 99, min_keep=None)
    with pytest.raises(InputError, match="of all layers no FFN neuron would stay"):
        allocation.masks(own.scores, np.array(widths("uniform", own)))


@pytest.mark.parametrize("sparsity", [35, 60, 90])
def test_the_programme_prices_a_dropped_ffn_as_it_was_measured(sparsity):
    rng, sizes = np.random.default_rng(sparsity), (9, 12, 7)
    rows = [(n, w, v) for n, s in enumerate(sizes) for w, v in zip(range(s), rng.random(s).cumsum()[::-1], strict=True)]
    rows[0] = (0, 0, 0.01)  # without the first FFN the model is hardly another
    rows[1:9] = [(0, w, 0.01) for w in range(1, 9)]
    measured = pd.DataFrame(rows, columns=["layer", "width", "divergence"])
    cost = {(n, w): v for n, w, v in rows} | {(n, s): 0.0 for n, s in enumerate(sizes)}
    most = allocation.kept(sum(sizes), sparsity)
    every = [own for own in product(*(range(s + 1) for s in sizes)) if sum(own) <= most]
    best = min(sum(cost[pair] for pair in enumerate(own)) for own in every)
    own = [np.arange(size, dtype=float) for size in sizes]
    found = programme.widths(Problem(own, np.array(sizes), sparsity, np.ones(3), np.zeros(3, dtype=int), measured))
    assert sum(cost[pair] for pair in enumerate(found)) == pytest.approx(best) and found[0] == 0
    # A layer that has no neuron left from an earlier round does not make the steps small.
    own = Problem([own[0][:0], np.arange(640.0)], np.array([0, 640]), 45, np.ones(2), np.zeros(2, int), measured)
    assert programme.widths(own).tolist() == [0, 350]  # in tens, of 352


def test_the_programme_drops_an_attention_that_costs_nothing():
    rows = [("ffn", 0, 0, 9.0), ("ffn", 1, 0, 9.0), *(("kv_groups", n, 0, float(n)) for n in (0, 1))]
    rows += [("kv_groups", n, 1, 0.9 * n) for n in (0, 1)]
    cuts = pd.DataFrame(rows, columns=["structure", "layer", "width", "divergence"])
    own = replace(groups_beside(50), measured=cuts)
    assert sensitivity_joint.counts(own).tolist() == [0, 2] and sensitivity_joint.widths(own).tolist() == [4, 4]
    own = replace(own, least_groups=1)
    assert sensitivity_joint.counts(own).tolist() == [1, 1]


def test_a_dropped_ffn_is_measured_as_such():
    assert sensitivity.levels(48, 0)[-2:] == [3, 0] and sensitivity.levels(0, 0) == []
    dense, dropped, batches = tiny.qwen2(3), tiny.qwen2(3), batches_of()
    rank = [np.arange(N, dtype=float)] * 3

    def fit(layer, keep):
        return Compensated(ffn.sites(dense)[layer].weight.numpy()[:, keep], None, {})

    rows = list(sensitivity.layers(sensitivity.Probe(dense, batches, rank, [45, 0, 45], fit)))
    assert [row[:2] for row in rows][-2] == (1, 0)
    ffn.shrink(dropped.model.layers[1], 1, [None, NONE], families.of(dropped))
    apart = []
    for batch in batches:
        with torch.inference_mode():
            p, q = (model(batch.ids).logits.double().log_softmax(-1)[:, :-1] for model in (tiny.qwen2(3), dropped))
        apart.append((p.exp() * (p - q)).sum(-1).flatten())
    assert rows[-2][2] == pytest.approx(float(torch.cat(apart).mean()), rel=2e-3)


# What is fitted to what is left


def batches_of(samples=10):
    sequences = [(np.random.default_rng(n).integers(1, 257, 24).tolist(), [True] * 24) for n in range(samples)]
    return micro_batches(sequences, 2, pad=0, token_mask="all")


def parts(folder, case="the first layer's", compensate="none", evidence=None, model=tiny.qwen2) -> variants.Parts:
    """The dense model, its manifest and a mask of the case."""
    base = folder / "base"
    if not base.exists():
        tiny.save(model(LAYERS), base)
    frames = [
        pd.DataFrame({"structure": kind, "layer": number, "unit": range(len(keep)), "keep": keep})
        for kind, keeps in zip(("ffn", "kv_groups"), CASES[case], strict=True)
        for number, keep in enumerate(keeps)
    ]
    artifacts.write_parquet(folder / "mask.parquet", pd.concat(frames, ignore_index=True), "mask", {})
    original = {"widths": [N] * LAYERS, "parameters": Checkpoint(base).parameters}
    artifacts.write_json(
        base / "manifest.json",
        {"files": artifacts.directory_hashes(base), "original": original, **original},
        "base",
        {},
    )
    return variants.Parts(base, base / "manifest.json", folder / "mask.parquet", compensate, evidence)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheme", refit.SCHEMES)
def test_what_is_left_is_refitted_around_a_dropped_layer(tmp_path, scheme, case):
    neurons, groups = CASES[case]
    own, batches, network = parts(tmp_path, case), batches_of(), tiny.qwen2(LAYERS)
    found = list(refit.refit(network, batches, neurons, scheme, groups=groups))
    for number, (weights, record) in enumerate(found):
        kept = {"down": neurons[number].sum(), "attention": 16 * groups[number].sum()}
        for name, fitted in record.items():
            assert weights[name].shape == (32, kept[name])
            assert fitted["held_out_error"] <= fitted["held_out_error_uncompensated"]
            if not kept[name]:
                assert fitted["lambda"] == "inf"
    content = {**second_moments.token_counts(batches), "widths": [int(keep.sum()) for keep in neurons]}
    content |= {"layers": LAYERS, "records": [record for _, record in found]}
    evidence = tmp_path / "refit.json"
    layer_files.write(tmp_path / "refit", evidence, "refit", {}, [weights for weights, _ in found], content)
    own = parts(tmp_path, case, f"ridge_{scheme}", evidence)
    expected = logits(network)
    torch.testing.assert_close(logits(variants.load(own, "float32", "cpu")[0]), expected, rtol=1e-4, atol=1e-5)
    with variants.written(own, "float32") as folder:
        torch.testing.assert_close(logits(load(folder, "float32", "cpu")[0]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_nothing_is_left_to_carry_what_a_dropped_ffn_did():
    down, rng = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32), np.random.default_rng(1)
    moments = {part: (a := rng.normal(size=(40, 5))).T @ a for part in ("fit", "held_out")}
    made = ridge.compensate(down, np.zeros(5, dtype=bool), {**moments, "tokens_fit": 40, "tokens_held_out": 40})
    assert made.weight.shape == (8, 0)
    assert made.record == {"lambda": "inf", "held_out_error": 1.0, "held_out_error_uncompensated": 1.0}


def test_its_mean_output_is(tmp_path):
    """As FLAP's bias, on a family without and one with a slot for it."""
    for family in ("qwen2", "llama"):
        (folder := tmp_path / family).mkdir()
        base = Checkpoint(tiny.save(tiny.of_family(family, 2), folder / "base"))
        with Calibration(tiny.of_family(family, 2), ["ce"]) as run:
            run.run(batches_of())
        frame = run.frames()[0]
        artifacts.write_parquet(folder / "statistics.parquet", frame, "statistics", {})
        keeps = [NONE, SOME]
        (output := folder / "cut").mkdir()
        compact.write_compact(
            base, output, keeps, compact.compensation("bias", folder / "statistics.parquet", base, keeps)
        )
        written = load(output, "float32", "cpu")[0]
        mean = frame[frame["layer"] == 0]["act_sum"] / frame[frame["layer"] == 0]["n_tokens"]
        expected = torch.from_numpy(base.matrix(0, "down") @ mean.to_numpy()).float()
        found = ffn.sites(written)[0](torch.zeros(1, 0))[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        by_code = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True)
        assert torch.equal(logits(by_code), logits(written))
        assert compact.parameters(base, [0, int(SOME.sum())], biased=True) == Checkpoint(output).parameters
    left = frame[frame["layer"] == 1]
    artifacts.write_parquet(tmp_path / "left.parquet", left, "statistics", {})  # of a model pruned before
    of_layer = bias.evidence(tmp_path / "left.parquet", [0, N])
    made = bias.compensate(np.zeros((8, 0), np.float32), np.zeros(0, dtype=bool), of_layer(0))
    assert made.weight.shape == (8, 0) and not made.bias.any() and len(of_layer(1)["act_sum"]) == N


def test_adapters_are_on_what_is_left_and_come_back(tmp_path):
    own = parts(tmp_path)
    with variants.written(own, "float32") as folder:
        network = load(folder, "float32", "cpu")[0]
        settings = {"targets": ["q_proj", "o_proj", "down_proj"], "rank": 2, "alpha": 4, "seed": 0}
        tuned = recovery.with_adapters(network, settings)
        trained = {name: own for name, own in tuned.named_parameters() if own.requires_grad}
        assert all(own.numel() for own in trained.values()) and not any("layers.0." in name for name in trained)
        optimizer, before = torch.optim.AdamW(trained.values(), lr=0.05), logits(tuned)
        recovery.backward(tuned, IDS, IDS)
        optimizer.step()
        recovery.save_state(tmp_path / "state", "own", [], tuned, optimizer)
        recovery.load_state(tmp_path / "state", "own", tuned, optimizer)
        recovery.save(tmp_path / "adapter", tuned)
        (tmp_path / "merged").mkdir()
        from_pruned(folder, tmp_path / "adapter", tmp_path / "merged")
    expected = logits(tuned.eval())
    assert (expected - before).abs().max() > 1e-3
    ours, theirs = load(tmp_path / "merged", "float32", "cpu")[0], tmp_path / "merged"
    theirs = AutoModelForCausalLM.from_pretrained(theirs, trust_remote_code=True)
    for model in (ours, theirs):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)


# What else is done with it


@pytest.mark.parametrize("case", CASES)
def test_a_variant_is_counted_and_told_apart(tmp_path, case):
    own, (neurons, groups) = parts(tmp_path, case), CASES[case]
    assert variants.outline(own) == tuple(
        (kind if isinstance(kind, bool) else tuple(int(keep.sum()) for keep in kind))
        for kind in (neurons, False, groups)
    )
    # By hand, d = 32: a neuron has 3 * 32; a group 16 rows of q, 8 of k and v with a bias each, 16 columns of o.
    gone, cut = sum((~keep).sum() for keep in neurons), sum((~keep).sum() for keep in groups)
    found, group = variants.pruned(own), (16 + 8 + 8) * 33 + 16 * 32
    assert found["parameters"] - found["parameters_kept"] == 96 * gone + group * cut
    assert found["achieved_sparsity"] == pytest.approx((gone + cut * group / 96) / (N * LAYERS))
    with variants.written(own, "float32") as folder:
        assert json.loads((folder / "config.json").read_text())["kv_groups"] == [int(keep.sum()) for keep in groups]
        assert remote_code.trusted(folder) and Checkpoint(folder).parameters == found["parameters_kept"]


def test_the_code_of_other_models_says_nothing_of_it(tmp_path):
    own = {"model_type": "qwen2", "ffn_widths": [0, 20], "kv_groups": [1, 2]}
    assert "Dropped" not in remote_code.source(own, FAMILIES["qwen2"])
    assert "Dropped" in remote_code.source({**own, "kv_groups": [0, 2]}, FAMILIES["qwen2"])


def test_padded_with_zeros_a_dropped_ffn_is_stock(tmp_path):
    folder, output = tiny.save(tiny.qwen2(), tmp_path / "base"), tmp_path / "cut"
    output.mkdir()
    compact.write_compact(Checkpoint(folder), output, [NONE, SOME], export="pad")
    expected = logits(masked(load(folder, "float32", "cpu")[0], [NONE, SOME], None))
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(output)), expected, rtol=1e-4, atol=1e-5)


def test_llama_cpp_is_not_given_a_layer_without_an_ffn(tmp_path):
    base = Checkpoint(tiny.save(tiny.llama(), tmp_path / "base"))
    (tmp_path / "cut").mkdir()
    compact.write_compact(base, tmp_path / "cut", [NONE, SOME])
    with pytest.raises(InputError, match="gguf: layers without an FFN are not converted"):
        gguf_model.write(tmp_path / "cut", tmp_path / "x.gguf", "f16", {})


def test_times_are_measured_of_a_shape_without_an_ffn():
    dense = tiny.qwen2()
    narrow = shapes.narrowed(dense, [0, 20])
    assert [site.in_features for site in ffn.sites(narrow)] == [0, 20]
    ffn.shrink(dense.model.layers[0], 0, [NONE], families.of(dense))
    ffn.shrink(dense.model.layers[1], 1, [None, np.arange(N) < 20], families.of(dense))
    assert narrow.num_parameters() == dense.num_parameters()
    once = {"prompt_tokens": 4, "decode_tokens": 2, "rounds": 1, "warmup": 0, "seed": 0}
    samples = timing.measure({"dense": dense, "narrow": narrow}, once)
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
    assert answer["cost"]["value"] == compact.parameters(base, answer["widths"])
    least = compact.parameters(base, [0, 1])
    with pytest.raises(InputError, match=rf"the least is {least}, at 99%$"):
        test_budget.found(place, settings | {"text": "1", "value": 1, "share": False})


def test_in_bfloat16_it_is_the_same_packed(tmp_path):
    with variants.written(parts(tmp_path), "bfloat16") as folder:
        model = load(folder, "bfloat16", "cpu")[0]
    expected = logits(model)
    assert expected.dtype == torch.bfloat16 and torch.equal(logits(packing.pack(model)), expected)


# Pruned again


@pytest.mark.parametrize("case", CASES)
def test_a_model_without_some_of_its_layers_is_pruned_again(tmp_path, case):
    """Measured, scored, masked, refitted, cut: of a layer without an FFN there is no row anywhere."""
    first, second, batches = tmp_path / "first", tmp_path / "second", batches_of()
    with variants.written(parts(tmp_path, case), "float32") as folder:
        shutil.copytree(folder, first)
    own, network = Checkpoint(first), load(first, "float32", "cpu")[0]
    left, groups = ([int(keep.sum()) for keep in keeps] for keeps in CASES[case])
    with Calibration(network, ["energy", "ce"]) as run:
        run.run(batches)
    statistics, layers = run.frames()
    assert statistics.groupby("layer").size().to_dict() == {n: width for n, width in enumerate(left) if width}
    assert not statistics.isna().any(axis=None)
    assert [len(losses) for losses in rounds.losses(network, batches, 0)] == own.widths == left
    scores = statistics[["layer", "unit"]].assign(score=statistics["ce_abs_sum"])
    problem = allocation.problem_of(scores, layers, {"original": {"widths": [N] * LAYERS}}, 0.01)
    kept = allocation.widths(problem, 90, {"allocate": "global", "options": {}, "round_to": 1})
    assert (kept <= left).all() and kept.sum() == allocation.kept(N * LAYERS, 90)
    rows = scores.assign(keep=np.concatenate(allocation.masks(problem.scores, kept)))[["layer", "unit", "keep"]]
    artifacts.write_parquet(mask := tmp_path / "again.parquet", rows, "mask", {})
    keeps = compact.keeps_of(mask, own)
    assert [int(keep.sum()) for keep in keeps] == kept.tolist() and [len(keep) for keep in keeps] == left
    for other in ([*left, 5], [N, N]):  # the mask's are three of N
        with pytest.raises(InputError, match="not a mask of .*: layer widths"):
            masks.keeps_of(tmp_path / "mask.parquet", first, other)
    second.mkdir()
    compact.write_compact(own, second, keeps)
    expected = logits(masked(load(first, "float32", "cpu")[0], keeps, None))
    torch.testing.assert_close(logits(load(second, "float32", "cpu")[0]), expected, rtol=1e-4, atol=1e-5)
    assert json.loads((second / "config.json").read_text())["kv_groups"] == groups
    refits = refit.refit(network, batches, keeps, "attention")
    assert [weights["down"].shape[1] for weights, _ in refits] == kept.tolist()


def test_a_neurons_size_is_that_of_a_layer_that_has_some(tmp_path):
    base = Checkpoint(tiny.save(tiny.qwen2(), tmp_path / "base"))
    (tmp_path / "cut").mkdir()
    compact.write_compact(base, tmp_path / "cut", [NONE, SOME])
    assert Checkpoint(tmp_path / "cut").sizes == base.sizes


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}, {"cache_implementation": "static"}],
    ids=["reordered", "cropped", "static"],
)
def test_caches_of_every_kind_hold_its_place(tmp_path, case, options):
    neurons, groups = CASES[case]
    ids, real = (IDS[:1].repeat(1, 2), None) if "prompt_lookup_num_tokens" in options else (IDS, REAL)
    real = torch.ones_like(ids) if real is None else real
    dense = masked(tiny.llama(LAYERS), neurons, groups)
    with variants.written(parts(tmp_path, case, model=tiny.llama), "float32") as folder:
        ours = load(folder, "float32", "cpu")[0]
        theirs = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    expected = continued(dense, ids, real, **options)
    assert continued(ours, ids, real, **options) == continued(theirs, ids, real, **options) == expected
