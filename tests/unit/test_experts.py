"""Experts of mixtures, of every family: what is cut is what no token reaches; what is measured is what each family's
own router, experts and loss do, written out here once more.
"""

import json
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import silu
from transformers import AutoModelForCausalLM

import tiny
from pruning import allocate, calibrate, score
from pruning import compact as compacted
from pruning.calibration import gradients, prepare
from pruning.calibration.gradients import Calibration
from pruning.config import mixtures
from pruning.config.default import DEFAULT
from pruning.config.models import Model
from pruning.core.errors import InputError
from pruning.methods import allocation, scoring
from pruning.methods.compact import Pruning
from pruning.models import complete, families, rehearsal
from pruning.models.checkpoint import Checkpoint, Loaded
from pruning.models.families import GROUPED, MIXTURES, family_of
from pruning.models.loading import load
from pruning.models.structures import STRUCTURES, ffn
from tiny import IDS, TEXT, logits

KEPT = [[1, 0, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0]]
LEAST = [[0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 1, 0]]  # as many as a token is sent to

of_mixtures = pytest.mark.parametrize("family", MIXTURES)


def mask(rows) -> dict[str, list[np.ndarray]]:
    return {"experts": [np.array(own, dtype=bool) for own in rows]}


def neurons(*kept: int, seed: int = 0) -> dict[str, list[np.ndarray]]:
    """A mask in which all experts stay, and of each so many neurons, others in each."""
    rng = np.random.default_rng(seed)
    own = [np.concatenate([np.isin(np.arange(24), rng.permutation(24)[:n]) for _ in range(6)]) for n in kept]
    return {**mask([[1] * 6] * 2), "expert_neurons": own}


CUTS = {"half": mask(KEPT), "least": mask(LEAST), "the last": mask([[1, 1, 1, 1, 1, 0]] * 2)}
CUTS |= {"16 neurons": neurons(16, 16), "8 neurons": neurons(8, 8)}


def batch(*texts: list[int]) -> list[prepare.Batch]:
    pairs = [(text, [True] * len(text)) for text in texts]
    return prepare.micro_batches(pairs, len(pairs), pad=0, token_mask="all")


# A plain reading of each family: what its FFN puts out, from tensors on disk -----------------------------------------


def routed(
    family: str, scores: torch.Tensor, k: int, renormalise: bool, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one token's router scores [experts]: its experts, and their weights. bias: DeepSeek-V3's."""
    if family == "gpt_oss":  # softmax of the best
        best, chosen = scores.sort(descending=True)
        return chosen[:k], torch.exp(best[:k] - best[0]) / torch.exp(best[:k] - best[0]).sum()
    chances = torch.exp(scores - scores.max()) / torch.exp(scores - scores.max()).sum()
    if family == "deepseek_v3":  # the bias chooses, and does not weigh
        chances = 1 / (1 + torch.exp(-scores))
    chosen = (chances + (bias if bias is not None else 0)).argsort(descending=True)[:k]
    best = chances[chosen]
    best = best / best.sum() if family != "deepseek_v2" and (renormalise or family == "mixtral") else best
    return chosen, 1.5 * best if family in GROUPED else best


def matrices(family: str, tensors: dict[str, torch.Tensor], layer: int, number: int) -> list[torch.Tensor]:
    """Gate, up [n, d] and down [d, n] of an expert."""
    block, names = "mlp", ("gate_proj", "up_proj", "down_proj")
    if family == "gpt_oss":
        place = f"model.layers.{layer}.mlp.experts"
        both, down = (tensors[f"{place}.{name}"][number].T for name in ("gate_up_proj", "down_proj"))
        return [both[::2], both[1::2], down]
    if family == "mixtral":
        block, names = "block_sparse_moe", ("w1", "w3", "w2")
    return [tensors[f"model.layers.{layer}.{block}.experts.{number}.{name}.weight"] for name in names]


def expert(family: str, tensors: dict[str, torch.Tensor], layer: int, number: int, x: torch.Tensor):
    """(what the neurons of an expert put out, its output), of one token's x [d]."""
    gate, up, down = matrices(family, tensors, layer, number)
    if family != "gpt_oss":
        a = silu(gate @ x) * (up @ x)
        return a, down @ a
    place = f"model.layers.{layer}.mlp.experts"
    both, own = (tensors[f"{place}.{name}_bias"][number] for name in ("gate_up_proj", "down_proj"))
    gate, up = (gate @ x + both[::2]).clamp(max=7.0), (up @ x + both[1::2]).clamp(-7.0, 7.0)
    a = (up + 1) * gate * torch.sigmoid(1.702 * gate)
    return a, down @ a + own


BIAS = "model.layers.{}.mlp.gate.e_score_correction_bias"


def of_layers_with_experts(folder) -> dict[str, torch.Tensor]:
    """The tensors of a saved model, its layers counted from the first that has experts."""
    first = families.dense_layers(json.loads((folder / "config.json").read_text()))

    def renumbered(name: str) -> str:
        return re.sub(r"layers\.(\d+)", lambda found: f"layers.{int(found[1]) - first}", name)

    return {renumbered(name): own for name, own in load_file(folder / "model.safetensors").items()}


def router(family: str, tensors: dict[str, torch.Tensor], layer: int, x: torch.Tensor) -> torch.Tensor:
    place = {"gpt_oss": "mlp.router", "mixtral": "block_sparse_moe.gate"}.get(family, "mlp.gate")
    bias = tensors.get(f"model.layers.{layer}.{place}.bias", torch.zeros(1))
    return tensors[f"model.layers.{layer}.{place}.weight"] @ x + bias


def shared(tensors: dict[str, torch.Tensor], layer: int, x: torch.Tensor) -> torch.Tensor | float:
    """What Qwen2-MoE's shared expert adds, or DeepSeek's, which every token passes whole."""
    place = f"model.layers.{layer}.mlp.shared_expert"
    if always := f"{place}s.down_proj.weight" in tensors:
        place += "s"
    if f"{place}.down_proj.weight" not in tensors:
        return 0.0
    gate, up, down = (tensors[f"{place}.{name}.weight"] for name in ("gate_proj", "up_proj", "down_proj"))
    out = down @ (silu(gate @ x) * (up @ x))
    return out if always else torch.sigmoid(tensors[f"{place}_gate.weight"] @ x) * out


@torch.inference_mode()
def ffns(model, ids: torch.Tensor = IDS[:1]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(input, output) of every layer's FFN, [tokens, d]."""
    with tiny.watched([layer.mlp for layer in families.pruned_layers(model)]) as calls:
        model(ids)
    return [(x[0], (out[0] if isinstance(out, tuple) else out).reshape(x.shape)[0]) for [(x, out)] in calls]


# What is cut ---------------------------------------------------------------------------------------------------------


def numbers(module: torch.nn.Module) -> dict[str, int]:
    return {name: own for name, own in vars(module).items() if type(own) is int}


@of_mixtures
@pytest.mark.parametrize("cut", CUTS)
def test_what_is_cut_is_what_no_token_reaches_or_what_puts_out_nothing(tmp_path, family, cut):
    keeps = CUTS[cut]
    structure, left = list(keeps)[-1], int(keeps["experts"][0].sum())
    pruning = Pruning(Checkpoint(tiny.save(tiny.of_family(family), tmp_path / "base")), keeps)
    folder = tiny.written(pruning, tmp_path / "compact")
    dense, in_memory = (load(pruning.base.directory, "float32", "cpu")[0] for _ in range(2))
    whole = logits(dense)
    with STRUCTURES[structure].silenced(dense, keeps[structure]):
        silent = logits(dense)
    assert (silent - whole).abs().max() > 1e-3 and torch.equal(logits(dense), whole)
    pruning.apply(in_memory)
    stock = AutoModelForCausalLM.from_pretrained(folder)
    stock.save_pretrained(tmp_path / "again")
    ours, again = load(folder, "float32", "cpu")[0], AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    in_program = compacted(dense, tiny.mask_frame(keeps))
    for model in (ours, in_memory, stock, again, in_program):
        for implementation in ("eager", "grouped_mm"):
            model.set_experts_implementation(implementation)
            torch.testing.assert_close(logits(model), silent, rtol=1e-5, atol=1e-5)
    config = json.loads((folder / "config.json").read_text())
    counted = [config[key] for key in families.EXPERTS if key in config]
    assert counted == [left] and "auto_map" not in config
    assert Checkpoint(folder).widths == [left] * 2 == STRUCTURES["experts"].counts(in_memory)
    assert Checkpoint(folder).channels("experts") == STRUCTURES["expert_neurons"].counts(in_memory)
    sites = zip(*(STRUCTURES["experts"].sites(model) for model in (ours, in_memory)), strict=True)
    assert all(numbers(one) == numbers(other) for one, other in sites)
    assert STRUCTURES["experts"].whole(in_program.config.to_dict()) == left
    assert getattr(in_program, "num_experts", left) == left
    models = (ours, in_memory, in_program)  # of which DeepSeek-V3 has numbers that are no parameters
    sizes = {sum(tensor.numel() for tensor in model.state_dict().values()) for model in models}
    assert sizes == {pruning.parameters()} == {Checkpoint(folder).parameters}
    removed = sum(int((~own).sum()) for own in keeps[structure])
    size, worth = (pruning.base.size(name) for name in (structure, "experts"))
    assert pruning.achieved([6, 6]) == pytest.approx(removed * size / worth / 12)
    assert pruning.base.parameters - pruning.parameters() == removed * size


@of_mixtures
@pytest.mark.parametrize("renormalise", [False, True])
def test_the_router_of_what_is_left_is_the_familys_own(tmp_path, family, renormalise):
    """Against a plain reading, token by token: top k of the rows that stay, renormalised or not."""
    changes = {} if family in ("mixtral", "gpt_oss") else {"norm_topk_prob": renormalise}
    model = tiny.of_family(family, **changes)
    base = Checkpoint(tiny.save(model, tmp_path / "base"))
    tensors = of_layers_with_experts(tmp_path / "base")
    folder = tiny.written(Pruning(base, mask(KEPT)), tmp_path / "compact")
    for layer, (inputs, outputs) in enumerate(ffns(load(folder, "float32", "cpu")[0])):
        stays = [number for number, keep in enumerate(KEPT[layer]) if keep]
        bias = tensors.get(BIAS.format(layer))
        bias = None if bias is None else bias[stays]
        for x, found in zip(inputs, outputs, strict=True):
            chosen, weights = routed(family, router(family, tensors, layer, x)[stays], 2, renormalise, bias)
            parts = [w * expert(family, tensors, layer, stays[c], x)[1] for c, w in zip(chosen, weights, strict=True)]
            torch.testing.assert_close(sum(parts) + shared(tensors, layer, x), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen2_moe", "mixtral"])
@pytest.mark.parametrize("cut", ["half", "8 neurons"])
def test_what_stays_is_bit_for_bit(tmp_path, family, cut):
    """On disk, tensor by tensor; Qwen2-MoE's shared expert is as wide as ever."""
    keeps, wanted = CUTS[cut], {}
    base = Checkpoint(tiny.save(tiny.of_family(family), tmp_path / "base"))
    folder = tiny.written(Pruning(base, keeps), tmp_path / "compact")
    for name, own in load_file(base.directory / "model.safetensors").items():
        stays = [np.flatnonzero(layer) for layer in keeps["experts"]]
        if found := re.search(r"layers\.(\d)\..*\.experts\.(\d)\.(\w+)", name):
            layer, number, matrix = int(found[1]), int(found[2]), found[3]
            if number not in stays[layer]:
                continue
            name = name.replace(f"experts.{number}.", f"experts.{[*stays[layer]].index(number)}.")
            left = keeps.get("expert_neurons", np.ones((2, 144), dtype=bool))[layer].reshape(6, 24)[number]
            own = own[:, left] if matrix in ("down_proj", "w2") else own[left]
        elif name.endswith(".gate.weight"):
            own = own[stays[int(name.split(".")[2])]]
        wanted[name] = own
    after = load_file(folder / "model.safetensors")
    assert after.keys() == wanted.keys() and all(torch.equal(own, after[name]) for name, own in wanted.items())
    assert sum("shared_expert" in name for name in after) == (8 if family == "qwen2_moe" else 0)


def test_a_mixtures_code_that_is_not_fetched_is_not_named(tmp_path):
    """As DeepSeek-V2's on the hub."""
    base = tiny.save(tiny.of_family("deepseek_v2"), tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"auto_map": {"AutoConfig": "configuration_deepseek.C"}}
    (base / "config.json").write_text(json.dumps(config))
    pruning = Pruning(Checkpoint(base), {"experts": [np.arange(6) < 4] * Checkpoint(base).layers})
    folder = tiny.written(pruning, tmp_path / "compact")
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    assert AutoModelForCausalLM.from_pretrained(folder).config.n_routed_experts == 4


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_shards_and_fused_tensors_on_disk_are_the_same_model(tmp_path, family):
    model = tiny.of_family(family)
    expected = logits(compacted(model, tiny.mask_frame(mask(KEPT))))
    for name, options in {"shards": {"max_shard_size": "40KB"}, "fused": {"save_original_format": False}}.items():
        model.save_pretrained(tmp_path / name, **options)
        tiny.tokenizer().save_pretrained(tmp_path / name)
        base = Checkpoint(tmp_path / name)
        assert len(base.files) > 1 or any(name.endswith("experts.gate_up_proj") for name in base.names)
        folder = tiny.written(Pruning(base, mask(KEPT)), tmp_path / f"{name}-compact")
        torch.testing.assert_close(logits(load(folder, "float32", "cpu")[0]), expected, rtol=1e-5, atol=1e-5)


@of_mixtures
def test_weights_are_those_of_one_wide_ffn(tmp_path, family):
    """Of all experts' neurons, one expert after the other; on disk and in memory."""
    model = tiny.of_family(family)
    base, tensors = Checkpoint(tiny.save(model, tmp_path)), of_layers_with_experts(tmp_path)
    assert base.widths == [6, 6] and base.channels("experts") == [144, 144]
    each = zip(*(matrices(family, tensors, 1, number) for number in range(6)), strict=True)
    for (name, axis), own in zip({"gate": 0, "up": 0, "down": 1}.items(), each, strict=True):
        assert torch.cat(own, axis).equal(torch.from_numpy(base.matrix(1, name)))
        assert np.array_equal(Loaded(model).matrix(1, name), base.matrix(1, name))


# Neurons inside experts ----------------------------------------------------------------------------------------------


RANKED = [  # family, what is cut, among how many units of a layer or an expert, how many stay, scores
    ("olmoe", "experts", 6, 3, ("rku", "random", "frequency", "wanda")),
    ("qwen3_moe", "expert_neurons", 24, 16, ("rku", "wanda", "random")),  # the nearest multiple of 8, half up
]


@pytest.mark.parametrize(("family", "structure", "among", "stay", "names"), RANKED)
def test_the_best_of_a_layer_or_of_an_expert_are_kept_as_many_in_each(family, structure, among, stay, names):
    model, own = tiny.of_family(family), {structure} - {"experts"}
    statistics = calibrate(model, [torch.tensor([TEXT, TEXT[::-1]])])
    for name in names:
        scores = score(name, statistics, model, structures=("ffn", *own))
        masked = allocate(scores, 0.5, *own)
        assert list(masked.columns) == ["structure", "layer", "unit", "keep"]
        assert masked[masked["structure"] != structure]["keep"].all()
        cut, ranked = (frame[frame["structure"] == structure] for frame in (masked, scores))
        keeps, values = cut["keep"].to_numpy().reshape(-1, among), ranked["score"].to_numpy().reshape(-1, among)
        for keep, each in zip(keeps, values, strict=True):
            assert set(np.flatnonzero(keep)) == set(np.argsort(-each, kind="stable")[:stay])
        whole, small = (STRUCTURES[structure].whole(m.config.to_dict()) for m in (model, compacted(model, masked)))
        assert small / whole == stay / among


UNEQUAL = neurons(7, 7)
UNEQUAL["expert_neurons"][0][:24] = True
REFUSED = [
    (neurons(8, 16), "neurons of experts: layers keep 48, 96: transformers has as many in every layer"),
    (mask([KEPT[0], [1] * 6]), "experts: layers keep 3, 6: transformers has as many in every layer: use `al"),
    (neurons(7, 7), "neurons of experts: 7 of an expert stay: .* take multiples of 8"),
    (UNEQUAL, r"neurons of experts: \[24, 7, 7, 7, 7, 7\] stay: every expert must keep as many"),
]


@pytest.mark.parametrize(("keeps", "said"), REFUSED)
def test_experts_and_layers_that_differ_are_refused(tmp_path, keeps, said):
    base = Checkpoint(tiny.save(tiny.of_family("olmoe"), tmp_path / "base"))
    with pytest.raises(InputError, match=said):
        tiny.written(Pruning(base, keeps), tmp_path / "out")


def test_shared_experts_as_wide_as_some_experts_say_what_fits():
    """DeepSeek's are two times 24 here, and config.json can say three times 16 or six times 8."""
    config = tiny.of_family("deepseek_v3", moe_intermediate_size=48).config.to_dict()
    own = STRUCTURES["expert_neurons"]
    assert own.compact_config(config, [6 * 24] * 2)["n_shared_experts"] == 4
    assert own.compact_config(config | {"n_shared_experts": None}, [6 * 40] * 2)["moe_intermediate_size"] == 40
    with pytest.raises(
        InputError, match="40 of an expert stay: shared experts keep all of their 96 .*: keep 8, 16, 24, 32"
    ):
        own.compact_config(config, [6 * 40] * 2)


def test_a_router_that_casts_its_weights_reaches_no_removed_expert():
    model = tiny.of_family("deepseek_v3").bfloat16()
    with tiny.watched([layer.mlp.gate for layer in families.pruned_layers(model)]) as calls:
        with STRUCTURES["experts"].silenced(model, mask(LEAST)["experts"]):
            logits(model)
        logits(model)
    silent, usual = ([{*own[number][1][2].flatten().tolist()} for own in calls] for number in (0, 1))
    assert silent == [{2, 5}, {0, 4}] and len(usual[0]) > 2


def test_dense_models_have_no_experts_to_score():
    model = tiny.llama()
    statistics = calibrate(model, [IDS[:1]])
    with pytest.raises(InputError, match="experts are removed from mixtures|no mixture of experts"):
        score("wanda", statistics, model, structures=("ffn", "expert_neurons"))
    with pytest.raises(InputError, match="'routed_tokens' was not measured"):
        score("reap", statistics, model)


# What is measured ----------------------------------------------------------------------------------------------------


@of_mixtures
def test_statistics_are_sums_over_the_tokens_that_reach_an_expert(tmp_path, family):
    """By hand: of every token the experts that it is sent to, what their neurons put out, times the router's weight."""
    model = tiny.of_family(family)
    tiny.save(model, tmp_path)
    tensors, renormalise = of_layers_with_experts(tmp_path), family in ("qwen3_moe", "deepseek_v3")
    found = gradients.statistics(model, batch(TEXT, TEXT[:7]), ())[0]
    seen = [ffns(model, torch.tensor([text])) for text in (TEXT, TEXT[:7])]
    for layer in range(2):
        wanted = {key: np.zeros(144) for key in ("act_sum", "act_sq_sum", "routed_tokens", "routed_norm_sum")}
        for x in [x for text in seen for x in text[layer][0]]:
            scores, bias = router(family, tensors, layer, x), tensors.get(BIAS.format(layer))
            chosen, weights = routed(family, scores, 2, renormalise, bias)
            for number, weight in zip(chosen.tolist(), weights, strict=True):
                a, out = expert(family, tensors, layer, number, x)
                own = slice(24 * number, 24 * number + 24)
                wanted["act_sum"][own] += (weight * a).double().numpy()
                wanted["act_sq_sum"][own] += (weight * a).double().square().numpy()
                wanted["routed_tokens"][own] += 1
                wanted["routed_norm_sum"][own] += (weight * out).double().norm().item()
        rows = found[found["layer"] == layer]
        assert rows["routed_tokens"].sum() == 24 * 2 * 19 and (rows["n_tokens"] == 19).all()
        for key, values in wanted.items():
            np.testing.assert_allclose(rows[key], values, rtol=2e-4, atol=1e-4 * np.abs(values).max())


def test_reap_is_the_mean_over_the_tokens_of_an_expert_and_frequency_their_share():
    """Of the sums of the test above, which all neurons of an expert have in common."""
    model, texts = tiny.of_family("qwen3_moe"), [TEXT, TEXT[::-1], [*range(40, 60)]]
    statistics = calibrate(model, [torch.tensor([text]) for text in texts], objectives=())
    sums = statistics.neurons.iloc[::24]
    wanted = {"reap": sums["routed_norm_sum"] / sums["routed_tokens"], "frequency": sums["routed_tokens"] / 44}
    for name, values in wanted.items():
        rows = score(name, statistics, model)
        assert (rows["structure"] == "experts").all() and rows["unit"].tolist() == [*range(6)] * 2
        np.testing.assert_allclose(rows["score"], values, rtol=1e-6)


@of_mixtures
def test_gradients_are_those_of_the_familys_own_loss(family):
    """Σ_t a g of a neuron is the sum of w dL/dw over the column of down that it has: by autograd, of transformers' own
    forward pass and loss."""
    model, ids = tiny.of_family(family), torch.tensor([TEXT])
    with Calibration(model, ["ce"]) as run:
        run.run(batch(TEXT))
    model.set_experts_implementation("eager")
    downs = [site.down_proj.requires_grad_(True) for site in STRUCTURES["experts"].sites(model)]
    own = torch.autograd.grad(model(ids, labels=ids).loss, downs)
    for sums, down, gradient in zip(run.sums, downs, own, strict=True):
        wanted = (down * gradient).detach().sum(2 if family == "gpt_oss" else 1).flatten().abs().double()
        torch.testing.assert_close(sums["ce_net_abs_sum"], wanted, rtol=1e-3, atol=1e-5 * wanted.max().item())


@of_mixtures
def test_fisher_is_of_the_gradient_by_an_experts_own_weight(family, monkeypatch):
    """h dL/dh of a token's expert is the derivative by a factor of its router's weight: by autograd, of transformers'
    own forward pass and loss."""
    model, texts = tiny.of_family(family), [TEXT, TEXT[::-1]]
    if family == "gpt_oss":
        for site in STRUCTURES["experts"].sites(model):
            site.down_proj_bias.data.zero_()  # it does not count
    statistics = calibrate(model, [torch.tensor([text]) for text in texts], objectives=("ce",))
    found = score("fisher", statistics, model)["score"].to_numpy().reshape(2, 6)
    model.set_experts_implementation("eager")
    wanted = torch.zeros(2, 6)
    for text in texts:
        seen = []
        for site in STRUCTURES["experts"].sites(model):

            def scaled(hidden, chosen, weights, usual=site.forward, seen=seen):
                seen.append((torch.ones_like(weights, requires_grad=True), chosen))
                return usual(hidden, chosen, weights * seen[-1][0])

            monkeypatch.setattr(site, "forward", scaled)
        ids = torch.tensor([text])
        by_factor = torch.autograd.grad(model(ids, labels=ids).loss, [factor for factor, _ in seen])
        monkeypatch.undo()
        for layer, (gradient, (_, chosen)) in enumerate(zip(by_factor, seen, strict=True)):
            wanted[layer].index_add_(0, chosen.flatten(), gradient.flatten().square() / 4)  # half, mean of two
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-4 * wanted.max().item())
    with pytest.raises(InputError, match="objective"):
        score("fisher", statistics, model, objective="energy")


@of_mixtures
def test_watching_changes_nothing_and_ends(family):
    model = tiny.of_family(family)
    before = logits(model)
    run = Calibration(model, ["energy"])
    with run, torch.enable_grad():
        run.run(batch(TEXT))
        run.batch = run.batch  # what is looked at next is of the same batch
        during = model(torch.tensor([TEXT])).logits
    torch.testing.assert_close(during[0].detach(), before[:12], rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(model), before)


@of_mixtures
def test_checkpoints_and_micro_batches_change_no_sum(family):
    texts = [TEXT, TEXT[::-1], TEXT[3:]]
    whole = gradients.statistics(tiny.of_family(family), batch(*texts), ("energy", "ce"))[0]
    model = tiny.of_family(family)
    gradients.checkpoint_gradients(model)
    pieces = [piece for text in texts for piece in batch(text)]
    for number, piece in enumerate(pieces):
        pieces[number] = prepare.Batch(piece.samples + number, piece.ids, piece.counted, piece.objective)
    again = gradients.statistics(model, pieces, ("energy", "ce"))[0]
    pd.testing.assert_frame_equal(whole, again, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["utility", "wanda", "magnitude", "maw", "minitron", "fluctuation", "cfsp"])
def test_scores_of_neurons_are_summed_over_an_expert(name):
    """The score of the wide FFN's neurons, each on its own, in a table of neurons."""
    model = tiny.of_family("qwen2_moe")
    statistics = calibrate(model, [torch.tensor([TEXT, TEXT[::-1]])])
    found = score(name, statistics, model)
    base = Loaded(model)
    settings = {"score": name, "options": {}, "normalise": "none", "shuffle": None}
    plugin = scoring.scores.plugin(name)
    for layer, rows in statistics.neurons.groupby("layer"):
        columns = {column: own.to_numpy() for column, own in rows.items()}
        weights = scoring.scores.Weights(partial(base.matrix, layer))
        alone = plugin.score(scoring.scores.Layer(layer, columns, weights), **settings["options"])
        wanted = alone.reshape(6, 24).sum(1)
        np.testing.assert_allclose(found[found["layer"] == layer]["score"], wanted, rtol=1e-9)


@of_mixtures
def test_memory_is_rehearsed(tmp_path, family):
    """On tensors without data: every stage that runs the network, within a third of what the experts' tokens take."""
    network = rehearsal.network(tiny.save(tiny.of_family(family), tmp_path), "float32")
    settings = {"micro_batch": 2, "sequence_length": 16, "objectives": ["energy"], "gradient_checkpointing": False}
    small = gradients.taken(network, settings).bytes
    large = gradients.taken(network, settings | {"sequence_length": 64}).bytes
    assert 0 < 3 * small < large < 6 * small


# Bad input -----------------------------------------------------------------------------------------------------------


def test_more_experts_removed_than_leave_top_k(tmp_path):
    base = Checkpoint(tiny.save(tiny.of_family("mixtral"), tmp_path / "base"))
    pruning = Pruning(base, mask([[0, 0, 1, 0, 0, 0]] * 2))
    said = "experts: of 6 in every layer 1 would stay, fewer than the 2 that each .* is sent to .*: remove at most 66%"
    with pytest.raises(InputError, match=said):
        tiny.written(pruning, tmp_path / "out")
    scores = pd.DataFrame({"structure": "experts", "layer": [0] * 6 + [1] * 6, "unit": [*range(6)] * 2, "score": 1.0})
    base = {"original": {"widths": [6, 6]}, "experts_per_token": 2}
    problem = allocation.problem_of(scores, None, base, 0.01)
    method = {"allocate": "uniform", "options": {}, "round_to": 1}
    assert allocation.units(problem, 99, method)["experts"].tolist() == [2, 2]  # as a budget looks for the least
    with pytest.raises(InputError, match=said):
        allocation.mask(scores, problem, 80, method)


def test_experts_are_made_narrower_once():
    """A model's own files do not tell how wide its experts were at first, against which sparsities are counted."""
    source = {"kind": "pruned", "model": "m", "calib": "c", "method": "narrow_wanda", "sparsity": 50}
    config = SimpleNamespace(models={"again": Model(source=source)}, method=DEFAULT.method, tunings={})
    shape = tiny.of_family("qwen3_moe").config.to_dict()
    for method in ("wanda", "narrow_wanda"):
        said = f"methods.{method}.allocate: again: its experts were made narrower by narrow"
        with pytest.raises(InputError, match=said):
            mixtures.check(config, "again", shape, [(method, 50)], [])


def test_an_expert_that_no_token_reaches_has_no_mean():
    model = tiny.of_family("qwen3_moe")
    statistics = calibrate(model, [torch.tensor([[5, 5, 5]])], objectives=())
    with pytest.raises(InputError, match=r"no calibration token is sent to expert [\d, ]+ of layer 0: .*raise `sam"):
        score("reap", statistics, model)
    assert (score("frequency", statistics, model)["score"] == 0).any()


@pytest.mark.parametrize("lost", ["experts.3.up_proj", "experts.5.down_proj", "mlp.gate"])
def test_a_checkpoint_without_an_expert_is_refused(tmp_path, lost):
    file = tiny.save(tiny.of_family("qwen3_moe"), tmp_path) / "model.safetensors"
    save_file({name: own for name, own in load_file(file).items() if lost not in name}, file, {"format": "pt"})
    with pytest.raises(InputError, match="not a whole checkpoint: looked for gate_proj, up_proj, down_proj of|gate"):
        Checkpoint(tmp_path)
        complete.check(tmp_path)


OTHERS = {
    "quantised": ("qwen3_moe", {"quantization_config": {"quant_method": "mxfp4"}}, "quantised .*mxfp4.*in bfloat16"),
    "some layers": ("qwen3_moe", {"mlp_only_layers": [0]}, r"experts in some layers alone \(mlp_only_layers: \[0\]\)"),
    "every other": ("qwen3_moe", {"decoder_sparse_step": 2}, r"alone \(decoder_sparse_step: 2\)"),
    "no number": (
        "qwen3_moe",
        {"num_local_experts": None, "num_experts": None},
        "not say num_local_experts or num_exp",
    ),
    "groups": ("deepseek_v2", {"n_group": 8}, r"chosen by groups \(n_group: 8\), which"),
    "perhaps groups": ("deepseek_v2", {"n_group": None}, r"chosen by groups \(n_group: None\), which"),
}


@pytest.mark.parametrize(("family", "changes", "said"), OTHERS.values(), ids=OTHERS)
def test_other_mixtures_are_refused_by_name(family, changes, said):
    config = tiny.of_family(family).config.to_dict() | changes
    with pytest.raises(InputError, match=f"models.m: {family} model .*{said}"):
        family_of(config, "models.m")


def test_what_is_for_ffn_neurons_alone_says_so():
    model = tiny.of_family("mixtral")
    with pytest.raises(InputError, match="of a mixture of experts `statistics` are measured, not second_moments"):
        calibrate(model, [torch.tensor([TEXT])], needs=["second_moments"])
    with pytest.raises(InputError, match="FFN neurons, and the model is a mixture of experts"):
        ffn.sites(model)
