"""Key-value groups: cut is masked, in every family that has them; measured and allocated by hand on a tiny model."""

import json
import shutil

import compact as compact_stage
import fetch_model
import mask as mask_stage
import numpy as np
import pandas as pd
import pytest
import score as score_stage
import torch
from transformers import AutoModelForCausalLM

import tiny
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import micro_batches
from pruning.calibration.second_moments import token_counts
from pruning.config.default import DEFAULT
from pruning.config.methods import Method
from pruning.core import artifacts, layer_files
from pruning.core.errors import InputError
from pruning.methods import compact, masks, refit, variants
from pruning.methods.allocation import Problem, joint
from pruning.methods.scores import groups_by
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import FAMILIES
from pruning.models.gguf import model as gguf_model
from pruning.models.loading import load
from pruning.models.structures import ffn, kv_groups

TEXT = [3, 77, 250, 14, 9, 120, 33, 8, 201, 5, 66, 17]
IDS = torch.tensor([TEXT])
CUT = ("olmo2", "phi3")
NEURONS = [np.arange(48) < 20, np.arange(48) % 3 > 0]
GROUPS = [np.array([False, True]), np.array([True, True])]


def masked(model):
    """Hooks that silence what leaves: the neurons' activations, and what the groups' heads hand on."""
    for site, keep in zip(ffn.sites(model), map(torch.tensor, NEURONS), strict=True):
        site.register_forward_pre_hook(lambda _, args, keep=keep: (args[0] * keep,))
    for site, keep in zip(kv_groups.sites(model), GROUPS, strict=True):
        channels = torch.tensor(keep).repeat_interleave(site.in_features // len(keep))
        site.register_forward_pre_hook(lambda _, args, keep=channels: (args[0] * keep,))
    return model


@torch.inference_mode()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in CUT])
def test_cut_is_masked_on_disk_in_memory_and_by_the_code_that_is_written(tmp_path, family):
    folder, output = tiny.save(tiny.of_family(family), tmp_path / "base"), tmp_path / "cut"
    expected = logits(masked(load(folder, "float32", "cpu")[0]))
    assert (expected - logits(load(folder, "float32", "cpu")[0])).abs().max() > 1e-3
    base = Checkpoint(folder)
    output.mkdir()
    compact.write_compact(base, output, NEURONS, groups=GROUPS)
    written, in_memory = load(output, "float32", "cpu")[0], load(folder, "float32", "cpu")[0]
    compact.cut(in_memory, base, NEURONS, groups=GROUPS)
    shutil.rmtree(tmp_path / "base")
    by_code = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True)
    for model in (written, in_memory, by_code):
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    assert json.loads((output / "config.json").read_text())["kv_groups"] == [1, 2]
    texts = [m.generate(IDS, max_new_tokens=8, do_sample=False)[0].tolist() for m in (written, in_memory, by_code)]
    assert texts[0] == texts[1] == texts[2]


def test_what_has_no_place_for_them_says_so(tmp_path):
    base = Checkpoint(tiny.save(tiny.qwen2(), tmp_path / "base"))
    with pytest.raises(InputError, match="as many key-value groups in every layer"):
        compact.write_compact(base, tmp_path, NEURONS, export="pad", groups=GROUPS)
    (tmp_path / "cut").mkdir()
    compact.write_compact(base, tmp_path / "cut", NEURONS, groups=GROUPS)
    with pytest.raises(InputError, match="key-value groups of their own number are not converted"):
        gguf_model.write(tmp_path / "cut", tmp_path / "x.gguf", "f16", {})


@pytest.mark.parametrize("family", CUT)
def test_attention_that_cannot_be_cut_is_refused(family):
    with pytest.raises(InputError, match="fused projections, or norms over all heads"):
        kv_groups.sites(tiny.of_family(family))


def test_without_grouped_queries_there_is_nothing_to_cut():
    with pytest.raises(InputError, match="4 query and as many key-value heads"):
        kv_groups.sites(tiny.llama(num_key_value_heads=4))


def test_parameters_are_those_that_are_written(tmp_path):
    base = Checkpoint(tiny.save(tiny.qwen2(), tmp_path / "base"))
    (tmp_path / "cut").mkdir()
    compact.write_compact(base, tmp_path / "cut", NEURONS, groups=GROUPS)
    widths = [int(keep.sum()) for keep in NEURONS]
    assert compact.parameters(base, widths, groups=GROUPS) == Checkpoint(tmp_path / "cut").parameters
    # By hand: d = 32, 4 heads of 8 channels in 2 groups: q 16, k 8 and v 8 rows with a bias each, o 16 columns.
    assert base.sizes == {"neuron": 3 * 32, "group": (16 + 8 + 8) * (32 + 1) + 16 * 32}
    share = (96 - sum(widths) + base.sizes["group"] / 96) / 96
    assert compact.achieved(base, [48, 48], widths, GROUPS) == pytest.approx(share)


def test_a_channels_statistics_are_its_activation_and_its_gradient():
    model, inputs = tiny.qwen2(), []
    site = kv_groups.sites(model)[1]
    hook = site.register_forward_pre_hook(
        lambda _, args: inputs.append(args[0].detach().requires_grad_(True)) or (inputs[0],)
    )
    (own,) = torch.autograd.grad(model(IDS, labels=IDS).loss, inputs)
    hook.remove()
    with Calibration(model, ["ce"], kv_groups.sites(model)) as run:
        run.run(micro_batches([(TEXT, [True] * len(TEXT))], 1, pad=0, token_mask="all"))
    frame = run.frames()[0]
    frame = frame[frame["layer"] == 1]
    assert len(frame) == 32
    expected = (inputs[0] * own)[0].abs().sum(0).detach().double().numpy()
    np.testing.assert_allclose(frame["ce_abs_sum"], expected, rtol=1e-3, atol=1e-5 * expected.max())
    np.testing.assert_allclose(frame["act_sq_sum"], inputs[0][0].detach().double().square().sum(0), rtol=1e-5)


def problem(sparsity, worth=2.0):
    """Two layers of four neurons and two groups, a group as large as two neurons."""
    scores = [np.array([9.0, 1.0, 5.0, 4.0]), np.array([8.0, 2.0, 6.0, 3.0])]
    groups = [np.array([7.0, 20.0]), np.array([30.0, 3.0])]
    size = np.array([4, 4])
    return Problem(scores, size, sparsity, np.ones(2), np.ones(2, int), groups=groups, neurons_worth=worth)


@pytest.mark.parametrize(
    ("sparsity", "widths", "counts"),
    [
        # Safe: 9, 8, and the groups 20, 30. By score for each neuron's worth: 6, 5, 4, 7/2, 3, 2, 3/2, 1.
        (0, [4, 4], [2, 2]),
        (12, [3, 4], [2, 2]),  # one neuron's worth: the 1
        (25, [3, 4], [2, 1]),  # two: the 1 and a group, which is two
        (50, [3, 3], [2, 1]),  # four: and the 2
        (62, [3, 2], [2, 1]),  # five
        (75, [3, 2], [1, 1]),  # six: the group of 7/2 makes it seven
    ],
)
def test_parameters_leave_in_the_order_of_score_for_each(sparsity, widths, counts):
    own = problem(sparsity)
    assert joint.widths(own).tolist() == widths
    assert joint.counts(own).tolist() == counts


def variant(folder, groups=GROUPS) -> variants.Parts:
    base = tiny.save(tiny.qwen2(), folder / "base")
    frames = [
        pd.DataFrame({"structure": kind, "layer": layer, "unit": range(len(keep)), "keep": keep})
        for kind, keeps in (("ffn", NEURONS), ("kv_groups", groups or ()))
        for layer, keep in enumerate(keeps)
    ]
    rows = pd.concat(frames, ignore_index=True)
    artifacts.write_parquet(folder / "mask.parquet", rows if groups else rows.drop(columns="structure"), "mask", {})
    original = {"widths": [48, 48], "parameters": Checkpoint(base).parameters}
    artifacts.write_json(
        base / "manifest.json",
        {"files": artifacts.directory_hashes(base), "original": original, **original},
        "base",
        {},
    )
    return variants.Parts(base, base / "manifest.json", folder / "mask.parquet")


def test_a_mask_says_both_and_neurons_alone_are_read_as_ever(tmp_path):
    own = variant(tmp_path)
    for found, expected in (
        (masks.groups_of(own.mask), GROUPS),
        (compact.keeps_of(own.mask, Checkpoint(own.model)), NEURONS),
    ):
        assert [keep.tolist() for keep in found] == [keep.tolist() for keep in expected]
    assert variants.outline(own) == ((20, 32), False, (1, 2))
    plain = variants.Parts(own.model, own.manifest)
    assert variants.outline(plain) == ((48, 48), False, ())


def refitted(own: variants.Parts, groups) -> tuple[variants.Parts, torch.nn.Module]:
    """Attention and FFNs refitted one layer after the other, as an artefact; and the model in which that was done."""
    network = load(own.model, "float32", "cpu")[0]
    sequences = [(np.random.default_rng(seed).integers(0, 257, 40).tolist(), [True] * 40) for seed in range(10)]
    batches = micro_batches(sequences, 2, pad=0, token_mask="all")
    found = list(refit.refit(network, batches, NEURONS, "attention", groups=groups))
    kept = [int(keep.sum()) for keep in groups or [np.ones(2)] * 2]
    assert [weights["attention"].shape for weights, _ in found] == [(32, 16 * count) for count in kept]
    for _, record in found:
        assert record["attention"]["held_out_error"] <= record["attention"]["held_out_error_uncompensated"]
    manifest = own.model.parent / "refit.json"
    content = {**token_counts(batches), "layers": 2, "widths": [20, 32], "records": [record for _, record in found]}
    layer_files.write(manifest.with_suffix(""), manifest, "refit", {}, [weights for weights, _ in found], content)
    return variants.Parts(own.model, own.manifest, own.mask, "ridge_attention", manifest), network


@pytest.mark.parametrize("groups", [GROUPS, None], ids=["groups cut", "all groups"])
def test_refitted_attention_is_in_every_way_to_a_model(tmp_path, groups):
    """In memory and where another tool reads, of the groups that are left; the dense projection is not."""
    own, network = refitted(variant(tmp_path, groups), groups)
    in_memory = variants.load(own, "float32", "cpu")[0]
    torch.testing.assert_close(logits(in_memory), logits(network), rtol=1e-4, atol=1e-5)
    with variants.written(own, "float32") as folder:
        torch.testing.assert_close(logits(load(folder, "float32", "cpu")[0]), logits(network), rtol=1e-4, atol=1e-5)


def test_groups_are_cut_once(tmp_path):
    base = Checkpoint(tiny.save(tiny.qwen2(), tmp_path / "base"))
    (tmp_path / "cut").mkdir()
    compact.write_compact(base, tmp_path / "cut", NEURONS, groups=GROUPS)
    with pytest.raises(InputError, match="cut before"):
        _ = Checkpoint(tmp_path / "cut").groups
    # A further round of neurons alone keeps what it finds.
    (tmp_path / "again").mkdir()
    keeps = [np.arange(20) < 9, np.arange(32) < 11]
    compact.write_compact(Checkpoint(tmp_path / "cut"), tmp_path / "again", keeps)
    model = load(tmp_path / "again", "float32", "cpu")[0]
    assert [site.in_features for site in kv_groups.sites(model)] == [16, 32]
    assert [site.in_features for site in ffn.sites(model)] == [9, 11]


def measured(folder) -> tuple[list[str], dict[str, list[dict]]]:
    """Matrices as the calibration's, of 48 neurons and 32 channels, no two alike: options that name them; tensors."""
    rng, options, made = np.random.default_rng(0), [], {}
    for prefix, width in (("", 48), ("attention_", 32)):
        draw = {"second_moments": (("fit", width), ("held_out", width)), "output_gradients": (("gradients", 32),)}
        for kind, tensors in draw.items():
            roots = [{name: rng.normal(size=(2 * size, size)) for name, size in tensors} for _ in range(2)]
            made[prefix + kind] = [
                {n: torch.from_numpy(np.float32(r.T @ r)) for n, r in each.items()} for each in roots
            ]
            content = {"tokens_fit": 70, "tokens_held_out": 30, "tokens": 90, "layers": 2, "widths": [width] * 2}
            path, layers = folder / f"{prefix}{kind}.json", [dict(each) for each in made[prefix + kind]]
            layer_files.write(path.with_suffix(""), path, prefix + kind, {}, layers, content)
            options.append(f"{prefix}{kind}={path}")
    return options, made


def scored(own: variants.Parts, evidence, score: str, options=None) -> pd.DataFrame:
    rows = pd.DataFrame([(layer, unit) for layer in (0, 1) for unit in range(48)], columns=["layer", "unit"])
    folder = own.model.parent
    artifacts.write_parquet(folder / "statistics.parquet", rows, "statistics", {})
    settings = {"score": score, "options": options or {}, "normalise": "none", "shuffle": None}
    score_stage.score(settings, own.model, folder / "statistics.parquet", folder / "scores.parquet", evidence)
    return artifacts.read_parquet(folder / "scores.parquet", "scores")


@pytest.mark.parametrize("metric", ["fisher", "output"])
def test_groups_are_scored_by_attentions_own_moments(tmp_path, metric):
    own = variant(tmp_path)
    evidence, made = measured(tmp_path)
    found = scored(own, evidence, "obs", {"metric": metric})
    groups, neurons = (masks.by_layer(masks.of(found, kind), "score") for kind in ("kv_groups", "ffn"))
    alone = scored(
        own, [option for option in evidence if not option.startswith("attention_")], "obs", {"metric": metric}
    )
    assert "structure" not in alone and np.array_equal(np.concatenate(neurons), alone["score"])
    model = load(own.model, "float32", "cpu")[0]
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


def test_a_groups_leverage_is_its_channels(tmp_path):
    own = variant(tmp_path)
    evidence, made = measured(tmp_path)
    moments = [option for option in evidence if "second_moments" in option]
    for layer, values in enumerate(masks.by_layer(masks.of(scored(own, moments, "leverage"), "kv_groups"), "score")):
        second = sum(m.double().numpy() for m in made["attention_second_moments"][layer].values())
        smoother = second @ np.linalg.inv(second + second.diagonal().mean() * np.eye(32))
        assert values == pytest.approx([np.trace(smoother[:16, :16]), np.trace(smoother[16:, 16:])], rel=1e-5)


def test_moments_of_attention_that_are_missing_or_anothers_are_refused(tmp_path):
    own = variant(tmp_path)
    evidence, made = measured(tmp_path)
    with pytest.raises(InputError, match="score 'obs' needs --evidence of attention_output_gradients"):
        scored(own, evidence[:3], "obs")
    path = tmp_path / "attention_second_moments.json"
    content = {"tokens_fit": 70, "tokens_held_out": 30, "layers": 2, "widths": [48, 48]}
    layers = [dict(each) for each in made["second_moments"]]
    layer_files.write(path.with_suffix(""), path, "attention_second_moments", {}, layers, content)
    with pytest.raises(InputError, match=r"attention second moments of another model: .* not \[32, 32\]"):
        scored(own, evidence, "obs")


def test_scores_say_whether_they_can_score_groups():
    assert groups_by("wanda") == ("attention",) and not groups_by("cfsp")
    for name in ("cfsp", "magnitude", "rounds"):
        with pytest.raises(
            ValueError, match=f"which score '{name}' cannot; .*leverage, minitron, obs, parameter_taylor"
        ):
            Method(score=name, allocate="joint")
    assert DEFAULT.method("attention_obs_joint").compensate == "ridge_attention"


def test_sparsity_counts_groups_removed_in_an_earlier_iteration(tmp_path):
    """Through the stages: pruned in neurons and groups, taken as a base, pruned again in neurons."""
    base, first = tiny.save(tiny.qwen2(), tmp_path / "base"), tmp_path / "first"
    original = {"widths": [48, 48], "parameters": Checkpoint(base).parameters}
    artifacts.write_json(
        base / "manifest.json", {"original": original, "files": artifacts.directory_hashes(base)}, "base", {}
    )
    frames = [
        pd.DataFrame({"structure": kind, "layer": number, "unit": range(len(keep)), "keep": keep})
        for kind, keeps in (("ffn", NEURONS), ("kv_groups", GROUPS))
        for number, keep in enumerate(keeps)
    ]
    artifacts.write_parquet(tmp_path / "mask.parquet", pd.concat(frames, ignore_index=True), "mask", {})
    settings = {"compensate": "none", "export": "exact"}

    def cut(model, mask, name):
        made = tmp_path / name, tmp_path / f"{name}.json"
        compact_stage.compact(settings, model, model / "manifest.json", mask, *made)
        return json.loads(made[1].read_text())

    once = cut(base, tmp_path / "mask.parquet", "first")
    neuron, group = 3 * 32, (16 + 8 + 8) * (32 + 1) + 16 * 32  # as above
    gone = (28 + 16 + group / neuron) / 96
    assert once["achieved_sparsity"] == pytest.approx(gone)
    again = tmp_path / "again/manifest.json"
    fetch_model.fetch_model({"kind": "pruned"}, again, first, tmp_path / "first.json")
    assert variants.pruned(variants.Parts(again.parent, again))["achieved_sparsity"] == pytest.approx(gone)
    units = [(layer, unit) for layer, width in enumerate((20, 32)) for unit in range(width)]
    scores = pd.DataFrame(units, columns=["layer", "unit"]).assign(score=1.0)
    artifacts.write_parquet(tmp_path / "scores.parquet", scores, "scores", {})
    layers = pd.DataFrame({"layer": [0, 1], "n_tokens": 1, "angular_sum": 1.0})
    artifacts.write_parquet(tmp_path / "layers.parquet", layers, "layers", {})
    method = {"allocate": "uniform", "options": {}, "round_to": 1, "min_keep": 0.01}
    for sparsity, expected in ((40, gone), (80, 0.8)):
        mask = tmp_path / f"{sparsity}.parquet"
        mask_stage.mask(method, tmp_path / "scores.parquet", tmp_path / "layers.parquet", again, sparsity, mask)
        made = cut(again.parent, mask, f"at-{sparsity}")
        assert made["achieved_sparsity"] == pytest.approx(expected, abs=1 / 96)
        assert made["kv_groups"] == once["kv_groups"] == [1, 2]
        masked = variants.Parts(again.parent, again, mask)
        assert variants.pruned(masked)["achieved_sparsity"] == pytest.approx(made["achieved_sparsity"])
