"""Parameter Taylor against plain autograd a sample, and numbers worked by hand."""

from functools import partial

import measure
import numpy as np
import pandas as pd
import pytest
import score as score_stage
import test_second_moments
import torch

import tiny
from pruning.calibration import prepare
from pruning.calibration.parameter_gradients import layers_that_fit, parameter_taylor, unit_taylor
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import scores
from pruning.models.checkpoint import Checkpoint
from pruning.models.loading import load

FAMILIES = {"qwen2": tiny.qwen2, "llama": tiny.llama}


micro_batches = partial(test_second_moments.micro_batches, lengths=(12, 9, 16, 7, 10), size=2)


def losses(model, batches) -> list[torch.Tensor]:
    """CE of each sample, unpadded, in float64."""
    entropy = torch.nn.functional.cross_entropy
    samples = test_second_moments.unpadded(batches)
    return [entropy(model(ids).logits[0, :-1].double(), ids[0, 1:]) for _, ids in samples]


def weights(model, layer: int, structure="ffn") -> dict[str, torch.nn.Parameter]:
    """Of an FFN, or of attention, the one last whose columns its units are; of the others they are the rows."""
    own, names = model.model.layers[layer].mlp, ("gate", "up", "down")
    if structure == "kv_groups":
        own, names = model.model.layers[layer].self_attn, ("q", "k", "v", "o")
    return {name: getattr(own, f"{name}_proj").weight for name in names}


def brute_force(model, batches, structure="ffn") -> np.ndarray:
    """sum |w sum_x dCE/dw| by a whole backward of all parameters, [layers, units]."""
    model.requires_grad_(True)
    sum(losses(model, batches)).backward()
    config = model.config
    units = config.intermediate_size if structure == "ffn" else config.num_key_value_heads
    expected = np.zeros((config.num_hidden_layers, units))
    for layer, totals in enumerate(expected):
        for name, weight in weights(model, layer, structure).items():
            products = (weight.detach() * weight.grad).abs()
            rows = (products.T if name in ("down", "o") else products).sum(1).numpy()
            totals += rows.reshape(units, -1).sum(1)  # neighbours are of one unit
    model.zero_grad()
    model.requires_grad_(False)
    return expected


@pytest.mark.parametrize("structure", ["ffn", "kv_groups"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers_a_pass", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2])
def test_equal_to_a_whole_backward(family, layers_a_pass, size, structure):
    model, batches = FAMILIES[family](layers=3).double(), micro_batches(size=size)
    found = list(parameter_taylor(model, batches, layers_a_pass, structure=structure))
    assert not any(p.requires_grad for p in model.parameters())
    for own, expected in zip(found, brute_force(model, batches, structure), strict=True):
        assert own.dtype == torch.float64
        assert own.numpy() == pytest.approx(expected, rel=1e-4)


def test_tokens_outside_the_objective_are_left_out():
    model, batches = tiny.qwen2(), micro_batches()
    plain = list(parameter_taylor(model, micro_batches(), 2))
    for batch in batches:
        batch.objective[:, :4] = False
    assert not torch.allclose(list(parameter_taylor(model, batches, 2))[0], plain[0], rtol=0.05)


def test_the_model_is_left_as_it_was():
    model, batches = tiny.qwen2(), micro_batches()
    before = {name: p.clone() for name, p in model.named_parameters()}
    list(parameter_taylor(model, batches, 1))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert not parameter._post_accumulate_grad_hooks


def test_half_precision_is_summed_in_single(tmp_path):
    """In bfloat16 sums a small gradient is lost beside a big one; here 200 equal samples make exactly 200 times one."""
    model = load(tiny.save(tiny.llama(), tmp_path), "bfloat16", "cpu")[0]
    [batch] = micro_batches(lengths=(12,), size=1)
    one, many = (list(parameter_taylor(model, [batch] * n, 2)) for n in (1, 200))
    for own, expected in zip(many, one, strict=True):
        torch.testing.assert_close(own, 200 * expected, rtol=1e-4, atol=0)


GATE, UP, DOWN = ("gate", 0, 1), ("up", 0, 1), ("down", 1, 1)


def test_unit_taylor_by_hand():
    """Two neurons, one hidden dimension of two; -1 * 2 and 2 * 1 do not cancel."""
    weight = {
        GATE: torch.tensor([[-1.0, 2.0], [0.0, 3.0]]),
        UP: torch.tensor([[1.0, 1.0], [5.0, -5.0]]),
        DOWN: torch.tensor([[2.0, 1.0], [4.0, -1.0]]),
    }
    gradient = {
        GATE: torch.tensor([[2.0, 1.0], [7.0, 1.0]]),
        UP: torch.tensor([[0.5, -0.5], [1.0, 2.0]]),
        DOWN: torch.tensor([[3.0, 10.0], [0.0, 20.0]]),
    }
    found = unit_taylor(weight, gradient, 2)
    assert found.dtype == torch.float64
    assert found.tolist() == [2 + 2 + 0.5 + 0.5 + 6 + 0, 0 + 3 + 5 + 10 + 10 + 20]
    fused = [{("fused", 0, 2): torch.cat([own[GATE], own[UP]]), DOWN: own[DOWN]} for own in (weight, gradient)]
    assert unit_taylor(*fused, 2).tolist() == found.tolist()
    dropped = {GATE: torch.empty(0, 2), UP: torch.empty(0, 2), DOWN: torch.empty(2, 0)}
    assert unit_taylor(dropped, dropped, 0).tolist() == []


def test_layers_a_pass_fit_half_of_what_the_weights_leave():
    """A layer's sums are 3 x 48 x 32 float32 = 18,432 bytes."""
    model = tiny.llama(layers=4)
    held = 4 * sum(p.numel() for p in model.parameters())
    for room, layers in [(0, 1), (4 * 18432 - 1, 1), (4 * 18432, 2), (10**9, 4)]:
        assert layers_that_fit(model, held + room) == layers
    assert layers_that_fit(model) == 4
    group = 4 * (2 * 32 * 32 + 2 * 16 * 32)  # q and o, k and v
    assert [layers_that_fit(model, held + room, "kv_groups") for room in (4 * group - 1, 4 * group)] == [1, 2]


def test_a_broken_weight_is_named_by_the_first_sample():
    model = tiny.qwen2()
    model.model.layers[1].mlp.up_proj.weight[3, 3] = torch.nan
    with pytest.raises(InputError, match="NaN or Inf in the objective ce at calibration sample 0"):
        list(parameter_taylor(model, micro_batches(), 2))
    assert not any(p.requires_grad for p in model.parameters())


def test_a_broken_gradient_is_named_by_its_layer():
    model = tiny.qwen2(layers=3)
    breaking = model.model.layers[1].mlp.up_proj.register_forward_hook(
        lambda _, args, output: output.register_hook(lambda g: g * torch.nan) and None
    )
    found = parameter_taylor(model, micro_batches(), 1)
    with pytest.raises(InputError, match="NaN or Inf in weight gradients of layer 0"):  # they flow down
        next(found)
    breaking.remove()
    assert len(list(parameter_taylor(model, micro_batches(), 1))) == 3


# the score and the stages

SETTINGS = {**tiny.CALIBRATION, "gradient_checkpointing": False}


def run_stage(tmp_path, memory_mb=None, **changes) -> pd.DataFrame:
    kind = "attention_parameter_taylor" if "structure" in changes else "parameter_taylor"
    output, files = tmp_path / f"{kind}.parquet", tiny.to_calibrate(tmp_path)
    measure.measure("parameter_gradients", [output], {**SETTINGS, **changes}, *files, memory_mb=memory_mb)
    return artifacts.read_parquet(output, kind)


def test_the_stage_writes_a_row_a_neuron(tmp_path):
    frame = run_stage(tmp_path)
    model, tokenizer = load(tmp_path / "model", "float32", "cpu")
    batches = prepare.batches(tmp_path / "data.parquet", tokenizer, {**SETTINGS, "micro_batch": 1})
    expected = torch.cat(list(parameter_taylor(model, batches, 2)))
    assert list(frame) == ["layer", "unit", "n_samples", "ce_param_abs"]
    assert frame["ce_param_abs"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-4)
    assert set(frame["n_samples"]) == {11.0}
    assert frame[["layer", "unit"]].to_numpy().tolist() == [[layer, c] for layer in (0, 1) for c in range(48)]


def test_key_value_groups_are_ranked_by_their_own(tmp_path):
    neurons, groups = run_stage(tmp_path), run_stage(tmp_path, structure="kv_groups")
    assert groups[["layer", "unit"]].to_numpy().tolist() == [[layer, unit] for layer in (0, 1) for unit in (0, 1)]
    own = tmp_path / "attention_parameter_taylor.parquet"
    scores = run_score(tmp_path, "parameter_taylor", tmp_path / "parameter_taylor.parquet", own)
    both = pd.concat([neurons, groups])
    assert scores["score"].to_numpy() == pytest.approx(both["ce_param_abs"].to_numpy() / 11)
    assert dict(scores["structure"].value_counts()) == {"ffn": 96, "kv_groups": 4}
    assert set(scores["parameters"]) == {3 * 32, 2 * 16 * 32 + 2 * 8 * 32}
    with pytest.raises(
        InputError, match="kind='parameter_taylor' schema=4, expected kind='attention_parameter_taylor'"
    ):
        run_score(tmp_path, "parameter_taylor", *[tmp_path / "parameter_taylor.parquet"] * 2)


def test_a_tight_bound_and_checkpointing_change_nothing(tmp_path, capsys):
    plain = run_stage(tmp_path)
    assert "2 layers a pass of 2" in capsys.readouterr().out
    for memory_mb, layers in ((0, 1), (None, 2)):
        found = run_stage(tmp_path, memory_mb=memory_mb, gradient_checkpointing=True)
        assert f"{layers} layers a pass of 2" in capsys.readouterr().out
        assert found["ce_param_abs"].to_numpy() == pytest.approx(plain["ce_param_abs"].to_numpy(), rel=1e-5)


def run_score(tmp_path, score, statistics, attention=None):
    settings = {"score": score, "options": {}, "normalise": "none", "shuffle": None}
    (kind,) = scores.plugin(score).requires
    evidence = [f"{kind}={statistics}"] + ([f"attention_{kind}={attention}"] if attention else [])
    structures = ["ffn", "kv_groups"] if attention else None
    score_stage.score(settings, tmp_path / "model", tmp_path / "scores.parquet", evidence, structures)
    return artifacts.read_parquet(tmp_path / "scores.parquet", "scores")


def test_the_score_stage_reads_the_kind_that_the_score_names(tmp_path):
    frame = run_stage(tmp_path)
    scores = run_score(tmp_path, "parameter_taylor", tmp_path / "parameter_taylor.parquet")
    assert scores["score"].to_numpy() == pytest.approx(frame["ce_param_abs"].to_numpy() / 11)
    with pytest.raises(InputError, match="kind='parameter_taylor' schema=4, expected kind='statistics'"):
        run_score(tmp_path, "minitron", tmp_path / "parameter_taylor.parquet")


def test_the_checkpoint_is_opened_once_and_only_for_scores_that_want_it(tmp_path, monkeypatch):
    opened, real = [], Checkpoint.__init__

    def counted(self, directory):
        opened.append(directory)
        real(self, directory)

    frame = run_stage(tmp_path).assign(act_sq_sum=1.0)
    artifacts.write_parquet(tmp_path / "statistics.parquet", frame, "statistics", {})
    monkeypatch.setattr(Checkpoint, "__init__", counted)
    run_score(tmp_path, "parameter_taylor", tmp_path / "parameter_taylor.parquet")
    assert opened == []
    run_score(tmp_path, "wanda", tmp_path / "statistics.parquet")
    assert len(opened) == 1
