"""What a program calls: models stay as they are, bad input is named, and results survive saving."""

import copy
import warnings
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import pruning
import tiny
from pruning import allocate, calibrate, compact, load, reconstruct, score
from pruning.core.errors import InputError
from pruning.methods import scores, scoring
from workspace import code_below

IDS = [torch.randint(1, 200, (4, 12), generator=torch.Generator().manual_seed(n)) for n in range(3)]
NEEDS = ("statistics", "second_moments", "output_gradients", "parameter_taylor")


@pytest.fixture(scope="module")
def model():
    return tiny.llama()


@pytest.fixture(scope="module")
def statistics(model):
    return calibrate(model, IDS, needs=NEEDS, structures=("ffn", "kv_groups"))


def state(model) -> list:
    """All that a caller could find changed."""
    own = [(n, p.detach().clone(), p.requires_grad, p.grad) for n, p in model.named_parameters()]
    return [*own, [module.training for module in model.modules()], model.config.to_dict()]


def same(first: list, second: list) -> bool:
    pairs = zip(first[:-2], second[:-2], strict=True)
    return str(first) == str(second) and all(torch.equal(a[1], b[1]) for a, b in pairs)


def test_no_function_changes_the_model():
    model = tiny.llama().train().requires_grad_(True)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    before = state(model)
    found = calibrate(model, IDS, needs=NEEDS)
    mask = allocate(score("rku_global", found, model), 0.3, "global")
    small = compact(model, mask)
    kept = state(small)
    for scheme in ("ridge_attention", "bias"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reconstruct(small, model, IDS, mask, scheme)
    assert same(before, state(model)) and same(kept, state(small))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert same(before, state(model))  # nothing is in common


@pytest.mark.parametrize("method", ["rku", "wanda", "obs", "taylor_param", "random", "utility", "ridge_cfsp", len])
def test_a_method_a_score_or_a_function_gives_a_number_per_neuron(model, statistics, method):
    function = (lambda layer: layer["act_sq_sum"]) if method is len else method
    found = score(function, statistics, model)
    assert found.columns.tolist() == ["layer", "unit", "score"] and len(found) == 2 * 48
    if method is len:
        assert found["score"].tolist() == statistics.neurons["act_sq_sum"].tolist()


def test_a_score_of_matrices_needs_no_statistics(model, statistics):
    matrices = calibrate(model, IDS, needs=["second_moments", "output_gradients"])
    assert not matrices.tables
    pd.testing.assert_frame_equal(score("obs", matrices, model), score("obs", statistics, model))

    def width(layer) -> np.ndarray:
        return np.full(len(layer.read("second_moments")["fit"]), layer.size)

    width.REQUIRES = ["second_moments"]
    assert score(width, matrices, model)["score"].tolist() == [48] * 2 * 48
    with pytest.raises(InputError, match="score 'wanda' needs statistics, which was not measured"):
        score("wanda", matrices, model)


def test_a_layer_without_neurons_has_no_scores(model, statistics):
    whole = score("random", statistics, model)
    small = compact(model, whole.assign(keep=whole["layer"] != 0)[["layer", "unit", "keep"]])
    matrices = calibrate(small, IDS, needs=["second_moments", "output_gradients"])
    for method in ("obs", "leverage"):
        assert score(method, matrices, small)["layer"].tolist() == [1] * 48


def test_padding_and_labels_of_a_tokenizer_count_as_in_the_pipeline(model):
    from pruning.calibration.prepare import micro_batches

    rows = [([5, 6, 7, 8], [False, False, True, True]), ([9, 10, 11], [False, True, True])]
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0]])
    seen = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 10, 11, -100]])
    own = calibrate(model, [{"input_ids": ids, "attention_mask": seen, "labels": labels}]).neurons
    pd.testing.assert_frame_equal(own, calibrate(model, micro_batches(rows, 2, pad=0, token_mask="answer")).neurons)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_uneven_widths_groups_and_biases_survive_saving(family, tmp_path):
    model = getattr(tiny, family)()
    found = calibrate(model, IDS, needs=("statistics", "parameter_taylor"), structures=("ffn", "kv_groups"))
    ranked = score("taylor_param", found, model, structures=("ffn", "kv_groups"))
    mask = allocate(ranked, 0.4, "joint", min_keep=None)
    small = reconstruct(compact(model, mask), model, IDS, mask, "bias")
    assert small.model.layers[0].mlp.down_proj.bias is not None and len(set(small.config.ffn_widths)) == 2
    tiny.save(small, tmp_path)
    back, _ = load(tmp_path)
    assert torch.equal(back(IDS[0]).logits, small(IDS[0]).logits)


def cut(model, statistics) -> pd.DataFrame:
    return allocate(score("rku", statistics, model), 0.3)


def drawn(model, statistics):
    """As small as after `cut`, of other neurons."""
    return compact(model, allocate(score("random", statistics, model), 0.3))


def test_less_is_lost_with_reconstructed_weights(model, statistics):
    mask = allocate(score("random", statistics, model), 0.3)
    small = compact(model, mask)
    lost = {}
    for scheme in ("none", "ridge", "ridge_sequential", "ridge_corrective", "ridge_attention"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = small if scheme == "none" else reconstruct(small, model, IDS, mask, scheme)
        lost[scheme] = sum(float((own(ids).logits - model(ids).logits).square().sum()) for ids in IDS)
    assert all(lost[scheme] < 0.8 * lost["none"] for scheme in lost if scheme != "none"), lost


PADDED = {"input_ids": IDS[0], "attention_mask": torch.arange(12).expand(4, 12) > 2}
SHORT = {"input_ids": IDS[0], "labels": IDS[0][:1]}
OTHER = tiny.keeps(40, 40, groups=[[1, 0, 1], [1, 1, 0]])
OUTSIDE = torch.tensor([[1, 2, 257, 5]])
INSIDE = {"structures": ["expert_neurons"]}


def removals(divergence: float = 1.0, **options) -> dict:
    """Of `allocate`, for a scheme that looks at the measured cost of removals."""
    measured = pd.DataFrame({"layer": [0], "kept": [48], "divergence": [divergence]})
    return {"scheme": "sensitivity", "measured": measured, "options": options}


def matrices(statistics):
    return replace(statistics, tables={})


REFUSED = {
    "needs: unknown 'gradients'; known: output_gradients, ": lambda m, s: calibrate(m, IDS, needs=["gradients"]),
    "objectives: unknown 'loss'; known: ce, energy": lambda m, s: calibrate(m, IDS, ["loss"]),
    "batches: there is none": lambda m, s: calibrate(m, []),
    "batch 0: give token ids as a tensor, int64": lambda m, s: calibrate(m, ["hello"]),
    "batch 1: give token ids as a tensor": lambda m, s: calibrate(m, [IDS[0], {"attention_mask": IDS[0]}]),
    "batch 0: labels and input_ids have different shapes, (1, 12) and (4, 12)": lambda m, s: calibrate(m, [SHORT]),
    "batch 0: token ids are whole numbers, not float32": lambda m, s: calibrate(m, [IDS[0].float()]),
    "normalise: unknown 'mean'; known: ": lambda m, s: score("rku", s, m, normalise="mean"),
    "sparsity: 0.3 is not": lambda m, s: allocate(score("rku", s, m), "0.3"),
    "mask: lacks the columns unit": lambda m, s: compact(m, cut(m, s).drop(columns="unit")),
    "dtype: unknown 'fp8'; known: bfloat16, ": lambda m, s: load(".", "fp8"),
    "device: unknown 'gpu'; known: auto, cpu, cuda": lambda m, s: load(".", device="gpu"),
    "sparsity: []: give shares": lambda m, s: pruning.prune("a/b", "x.jsonl", []),
    "sparsity: 30: give shares": lambda m, s: pruning.prune("a/b", "x.jsonl", "30"),
    "batch 0: padding before tokens": lambda m, s: calibrate(m, [PADDED]),
    "batch 1: a sample has no token for the objectives": lambda m, s: calibrate(m, [IDS[0], IDS[1][:, :1]]),
    "unknown score 'entropy'; built in: cfsp, ": lambda m, s: score("entropy", s, m),
    "score: unknown 'seed'; known: normalise, options, shuffle": lambda m, s: score("random", s, m, seed=3),
    "score 'obs' needs output_gradients, second_moments": lambda m, s: score("obs", replace(s, matrices={}), m),
    "'energy_post_share_sum' was not measured, but: layer, unit": lambda m, s: score("rku_post", s, m),
    "of another model: layer widths [48, 48], not [34, 34]": lambda m, s: score("rku", s, compact(m, cut(m, s))),
    "it gives 3 numbers for 48 units": lambda m, s: score(lambda layer: np.ones(3), s, m),
    "NaN or Inf in layer 0 of ffn": lambda m, s: score(lambda layer: np.full(48, np.nan), s, m),
    "sparsity: 30 is not between 0 and 1": lambda m, s: allocate(score("rku", s, m), 30),
    "scheme: unknown 'even'; known: cfsp, ": lambda m, s: allocate(score("rku", s, m), 0.3, "even"),
    "options: unknown 'x'; known: alpha": lambda m, s: allocate(score("rku", s, m), 0.3, "cfsp", options={"x": 1}),
    "'joint' also cuts kv_groups, and the scores are of ffn": lambda m, s: allocate(score("rku", s, m), 0.3, "joint"),
    "'expert_neurons' also cuts": lambda m, s: allocate(score("rku", s, m), 0.3, "expert_neurons"),
    "scheme: 'sensitivity' needs the measured cost": lambda m, s: allocate(score("rku", s, m), 0.3, "sensitivity"),
    "cfsp: needs how much each layer changes": lambda m, s: allocate(score("rku", s, m), 0.3, "cfsp"),
    "mask: not one of this LlamaForCausalLM: layer widths": lambda m, s: compact(m, cut(m, s).query("unit < 40")),
    "of this LlamaForCausalLM: layers' numbers of `kv_groups` [3": lambda m, s: compact(m, tiny.mask_frame(OTHER)),
    "small: has ffn [48, 48], the mask keeps [34, 34]": lambda m, s: reconstruct(m, m, IDS, cut(m, s)),
    "small: layer 0 has other neurons than the mask keeps": lambda m, s: reconstruct(drawn(m, s), m, IDS, cut(m, s)),
    "scheme: unknown 'attention'; known: bias, ": lambda m, s: reconstruct(m, m, IDS, None, "attention"),
    "model: a tuple: give a transformers model": lambda m, s: calibrate((m, None), IDS),
    "model: a str: give a transformers model": lambda m, s: compact("folder", cut(m, s)),
    "model: a Statistics: give a": lambda m, s: score("rku", m, s),
    "statistics: a DataFrame: give what `calibrate` returns": lambda m, s: score("rku", s.neurons, m),
    "needs: give a list, as ['statistics']": lambda m, s: calibrate(m, IDS, needs="statistics"),
    "batch 1: token ids from 1 to 257, and the model has 0 to 256": lambda m, s: calibrate(m, [IDS[0], OUTSIDE]),
    "token ids from 1 to 257": lambda m, s: reconstruct(compact(m, cut(m, s)), m, [*IDS, OUTSIDE], cut(m, s)),
    "statistics: a DataFrame: give": lambda m, s: allocate(score("rku", s, m), 0.3, "global", s.neurons),
    "per: unknown 'x'; known: parameters": lambda m, s: allocate(score("rku", s, m), 0.3, **removals(per="x")),
    "measured: NaN or Inf in `divergence`": lambda m, s: allocate(score("rku", s, m), 0.3, **removals(np.nan)),
    "damping 0: give a number above 0": lambda m, s: score("obs", s, m, options={"damping": 0}),
    "second moments of [48, 48] inputs, not [34": lambda m, s: score("obs", matrices(s), compact(m, cut(m, s))),
    "needs: of a mixture of experts": lambda m, s: calibrate(
        tiny.of_family("mixtral"), IDS, needs=NEEDS[1:2], **INSIDE
    ),
    "scores: lacks the columns layer, unit, score: give what `score` returns": lambda m, s: allocate(s, 0.3),
    "scores: NaN, Inf, or no number in `score`": lambda m, s: allocate(s.neurons.assign(score=np.nan), 0.3),
    "scores: NaN, Inf, or no": lambda m, s: allocate(s.neurons.assign(score="a"), 0.3),
    "round_to: -32: give a whole number, 1 or more": lambda m, s: allocate(score("rku", s, m), 0.3, round_to=-32),
    "round_to: 0: give": lambda m, s: allocate(score("rku", s, m), 0.3, round_to=0),
    "min_keep: 2 is not from 0 to 1": lambda m, s: allocate(score("rku", s, m), 0.3, min_keep=2),
    "mask: `keep` is not of true and false": lambda m, s: compact(m, cut(m, s).assign(keep="yes")),
    "mask: lacks the columns layer, unit, keep": lambda m, s: compact(m, None),
    "data: a list: `prune` reads files": lambda m, s: pruning.prune("a/b", [{"text": "a"}]),
    "model: a LlamaForCausalLM: `prune` reads files": lambda m, s: pruning.prune(m, "x.jsonl"),
    "no/such: no such folder": lambda m, s: load("no/such"),
    "prune: unknown 'sparsness'; known: against, answer, ": lambda m, s: pruning.prune("a/b", "x.jsonl", sparsness=0.2),
    "sparsity: 0.305: give shares between 0 and 1": lambda m, s: pruning.prune("a/b", "x.jsonl", 0.305),
    "prune: data: missing": lambda m, s: pruning.prune("a/b"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_named(model, statistics, words):
    with pytest.raises(InputError) as error:
        REFUSED[words](model, statistics)
    assert words in str(error.value)


def test_masks_of_numbers_are_masks(model, statistics):
    mask = allocate(score("rku_global", statistics, model), 0.3, "global")
    numbers = mask.assign(keep=mask["keep"].astype(int))
    both = [reconstruct(compact(model, own), model, IDS, own, "bias") for own in (mask, numbers)]
    assert same(*map(state, both))


def test_schemes_take_statistics_without_a_table_of_layers(model):
    found = calibrate(model, IDS, needs=("second_moments", "output_gradients"))
    scored = score("obs", found, model)
    assert allocate(scored, 0.3, "global", found).equals(allocate(scored, 0.3, "global"))
    with pytest.raises(InputError, match="cfsp"):
        allocate(scored, 0.3, "cfsp", found)


@pytest.mark.parametrize("scheme", ["cfsp", "cfsp_refill"])
def test_the_last_layer_may_have_no_neurons(model, statistics, scheme):
    mask = allocate(score("wanda", statistics, model), 0.01, "uniform")
    mask["keep"] = mask["layer"] == 0
    small = compact(model, mask)
    found = calibrate(small, IDS)
    left = allocate(score("wanda", found, small), 0.3, scheme, found).groupby("layer")["keep"].agg(["sum", "size"])
    assert left.index.tolist() == [0] and 0.6 < (left["sum"] / left["size"]).item() < 0.8
    with pytest.raises(InputError, match="statistics: of another model than the scores: layer widths"):
        allocate(score("wanda", found, small), 0.3, scheme, statistics)


def test_a_score_below_zero_ranks_as_it_says(model, statistics):
    def negated(layer):
        return -1 / (1e-9 + layer["act_sq_sum"])

    masks = [allocate(score(negated, statistics, model, normalise=own), 0.5) for own in scoring.NORMALISATIONS]
    assert all(own.equals(masks[0]) for own in masks)


def test_the_mask_of_other_groups_is_another_mask(model, statistics):
    scored = score("wanda", statistics, model, structures=("ffn", "kv_groups"))
    mask = allocate(scored, 0.2, "joint")
    groups = mask[(mask["structure"] == "kv_groups") & (mask["layer"] == 0)].index
    mask.loc[groups, "keep"] = [True, False]
    other = mask.copy()
    other.loc[groups, "keep"] = [False, True]
    with pytest.raises(InputError, match="small: layer 0 has other kv_groups than the mask keeps"):
        reconstruct(compact(model, mask), model, IDS, other)


def test_nan_is_named_before_it_is_fitted(model, statistics):
    mask = allocate(score("wanda", statistics, model), 0.3)
    broken = copy.deepcopy(model)
    broken.model.layers[0].mlp.up_proj.weight.data[0] = float("nan")
    small = compact(broken, mask)
    for scheme in ("ridge_sequential", "ridge_attention"):
        with pytest.raises(InputError, match="NaN or Inf after layer 0"):
            reconstruct(small, broken, IDS * 2, mask, scheme)


def test_prune_asks_for_what_the_command_would(monkeypatch):
    from pruning.command import prune as command

    asked = []
    made = SimpleNamespace(models=pd.DataFrame({"bytes": [1]}), folder=Path("pruned/results/m"), page="# Page")
    monkeypatch.setattr(command, "prune", lambda request, line: asked.append((request, line)) or made)
    result = pruning.prune("org/name", data="mine.jsonl", sparsity=[0.2, 0.29], methods=["wanda"], out="here", cores=1)
    assert result.table["bytes"].tolist() == [1] and result.best == Path("pruned/results/m") and result.page == "# Page"
    [(request, line)] = asked
    assert request == command.Request(
        "org/name", Path("mine.jsonl"), "20,29", methods=["wanda"], out=Path("here"), cores=1
    )
    assert line.startswith("prune('org/name', data='mine.jsonl', sparsity=[0.2, 0.29], methods=['wanda']")
    pruning.prune("a/b", tasks="gsm8k", gguf="Q8_0", against=["Q4_K_M", "c/d"], budget="bytes=3MB", vocabulary=300)
    request = asked[-1][0]
    assert (request.tasks, request.gguf, request.against) == (["gsm8k"], ["q8_0"], ["q4_k_m", "c/d"])
    assert (request.budget, request.vocabulary, request.sparsities) == (["bytes=3MB"], "300", [])
    for numpys in (np.float32(0.3), np.array([0.3])):
        pruning.prune("a/b", data="mine.jsonl", sparsity=numpys)
        assert asked[-1][0].sparsity == "30"


def test_one_batch_needs_no_list_and_a_dtype_may_be_torchs(model, tmp_path):
    of_one, of_list = (calibrate(model, given).neurons for given in (IDS[0], [IDS[0].int()]))
    assert of_one.equals(of_list)
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path, torch.bfloat16, "cpu")[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module", "no_such_module of package theirs cannot be loaded: ModuleNotFoundError"),
        ("json", "its module has no function `score`"),
        ("test_api:needing", "REQUIRES names text; known: statistics, "),
    ],
)
def test_scores_of_packages_that_do_not_work_are_named(monkeypatch, value, message):
    entry = EntryPoint("theirs", value, scores.GROUP)
    vars(entry)["dist"] = SimpleNamespace(name="theirs", version="1")
    monkeypatch.setattr(scores, "entry_points", lambda group: [entry])
    with pytest.raises(InputError, match=message):
        scores.plugin("theirs")
    monkeypatch.setattr(scores, "entry_points", lambda group: [entry, copy.copy(entry)])
    with pytest.raises(InputError, match=r"given by several \(package theirs, package theirs\)"):
        scores.check("theirs")


def needing(layer):
    """A score that asks for what is not measured."""


needing.REQUIRES = ("text",)


def test_the_pages_steps_run_as_they_stand(tmp_path, monkeypatch):
    """On a smaller model; the first part, tests/pipeline/test_prune_command.py runs."""
    monkeypatch.chdir(tmp_path)
    tiny.save(tiny.llama(), tmp_path / "resources/tiny-reasoner")
    own: dict = {}
    for code in code_below("docs/reference-python.md", "Step by step"):
        exec(code, own)  # noqa: S102
    assert own["again"].config.intermediate_size == 34 and len(set(own["small"].config.ffn_widths)) == 2
    exec(code_below("docs/reference-python.md", "A score of your own")[0], own)  # noqa: S102
    assert own["mask"]["keep"].mean() == pytest.approx(0.7, abs=0.01)
