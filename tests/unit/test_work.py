"""Operations that `estimate` reckons with, against torch's own counter of what the stages really compute."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny
from pruning.analysis import work
from pruning.calibration import output_gradients, prepare, second_moments
from pruning.calibration.gradients import Calibration
from pruning.config import calibration, methods, models
from pruning.core.errors import InputError
from pruning.evaluation import recovery
from pruning.methods import refit, sensitivity
from pruning.models import rehearsal
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.loading import load

COUNTING = work.Card(tflops=1e-12, gbps=1e-9, gb=1, share=1)  # an operation, or a byte, a second
JOB = {"model": "tiny", "calib": "text", "tuning": "told", "method": "own"}
TEXT = {"dataset": "d", "samples": 10, "micro_batch": 5, "sequence_length": 16, "rounds": [25, 50]}
TOLD = {"dataset": "d", "steps": 2, "batch_size": 5, "sequence_length": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tiny.qwen2(layers=12), tmp_path_factory.mktemp("m") / "model")


def reckoned(folder, rule: str, method: dict | None = None, again: bool = False, sparsity: str = "0", **told) -> float:
    """Operations that a job is reckoned with. again: layers are computed again; told: of the tuning."""
    source = {"kind": "local", "path": str(folder)}
    config = SimpleNamespace(
        models={"tiny": models.Model(source=source, gpus=0)},
        calibrations={"text": calibration.Calibration(**TEXT, gradient_checkpointing=again)},
        tunings={"told": calibration.Tuning(**TOLD, gradient_checkpointing=again, **told)},
        method=lambda _: methods.Method(score="wanda", **(method or {})),
        lineage=lambda model: [model],
    )
    return work.Job(work.Run(config, COUNTING), rule, {**JOB, "sparsity": sparsity}).seconds


def batches() -> list[prepare.Batch]:
    return prepare.micro_batches([([1 + row] * 16, [True] * 16) for row in range(10)], 5, pad=0, token_mask="all")


def counted(compute) -> int:
    """Operations of matrix products, without those between tokens (attention)."""
    with FlopCounterMode(display=False) as counter:
        compute()
    flops = counter.get_flop_counts()["Global"]
    return sum(n for kind, n in flops.items() if str(kind) in ("aten.mm", "aten.addmm", "aten.bmm"))


def calibrated(network) -> None:
    with Calibration(network, ["energy", "ce"]) as run:
        run.run(batches())


def tuned(network) -> None:
    adapted = recovery.with_adapters(network, calibration.Tuning(**TOLD).model_dump())
    for _ in range(2):
        recovery.backward(adapted, *2 * [torch.ones(5, 16, dtype=torch.long)])


REAL = {
    "calibrate_shard": calibrated,
    "second_moments": lambda network: list(second_moments.second_moments(network, batches())),
    "output_gradients": lambda network: output_gradients.output_gradients(network, batches(), 0),
    "recover": tuned,
}


@pytest.mark.parametrize("again", [False, True], ids=["layers kept", "layers computed again"])
@pytest.mark.parametrize("stage", REAL)
def test_a_job_computes_its_rehearsed_part_so_many_times(folder, stage, again):
    network = load(folder, "float32", "cpu")[0]
    if again and stage != "second_moments":
        checkpoint_gradients(network)
    found = reckoned(folder, stage, again=again)
    assert found == pytest.approx(counted(lambda: REAL[stage](network)), rel=0.01)


@pytest.mark.parametrize("scheme", ["sequential", "corrective", "attention"])
def test_a_refit_costs_passes_of_the_dense_and_of_the_cut_layers_and_sums(folder, scheme):
    network, keeps = load(folder, "float32", "cpu")[0], [np.arange(48) < 24] * 12
    found = reckoned(folder, "refit", {"compensate": f"ridge_{scheme}"}, sparsity="50")
    expected = counted(lambda: list(refit.refit(network, batches(), {"ffn": keeps}, scheme)))
    assert found == pytest.approx(expected, rel=0.1)  # attention's own sums


def test_rounds_cost_their_passes(folder):
    method = {"compensate": "ridge_attention"}
    each = sum(reckoned(folder, stage) for stage in ("output_gradients", "second_moments"))
    refits = [reckoned(folder, "refit", method, sparsity=gone) for gone in ("25", "50")]
    assert reckoned(folder, "rounds", method) == pytest.approx(3 * each + sum(refits), rel=1e-4)


@pytest.mark.parametrize(
    "search, scheme", [("layers", "sensitivity"), ("layers", "sensitivity_joint"), ("greedy", "greedy")]
)
def test_measuring_cuts_costs_the_layers_that_follow_them(tmp_path, search, scheme):
    network = load(tiny.save(tiny.qwen2(layers=4), tmp_path), "float32", "cpu")[0]
    parts = {"ffn": np.arange(48.0), "kv_groups": np.arange(2.0)}

    def measure() -> None:
        for structure in parts if scheme == "sensitivity_joint" else ["ffn"]:
            probe = sensitivity.Probe(network, batches(), [parts[structure]] * 4, [1] * 4, None, structure)
            list(getattr(sensitivity, search)(probe))

    found, expected = reckoned(tmp_path, "sensitivity", {"allocate": scheme}), counted(measure)
    # that a layer at its least is tried no more is left out
    assert expected == pytest.approx(found, rel=0.1) if search == "layers" else expected < found < 2 * expected


def test_a_teacher_costs_its_own_pass(folder):
    alone, taught = (reckoned(folder, "recover", objective=each) for each in ("cross_entropy", "distillation"))
    shape = work.shape_of(rehearsal.network(folder, "float32"))
    assert taught - alone == pytest.approx(2 * 160 * (shape.matrices + shape.head))


@pytest.mark.parametrize("make", [tiny.qwen2, tiny.llama])
def test_a_forward_pass_costs_two_operations_a_parameter_and_token(make):
    model, ids = make(), torch.randint(1, 257, (3, 16))
    shape = work.shape_of(model)
    assert shape.forward(48, 48) == pytest.approx(counted(lambda: model(ids)), rel=0.02)  # norms and biases are, too
    assert shape.kept(0.5) == work.shape_of(make(intermediate_size=24)).matrices
    cache = model(ids[:1, :5], use_cache=True).cache
    assert 5 * shape.cached == sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)


GSM8K = {"kind": "lm_eval", "definition": "gsm8k", "limit": 100, "batch_size": 50, "max_gen_toks": 10}
GSM8K |= {"shared_examples": False, "stop_early": None, "num_fewshot": None, "chat_template": False}


def test_generation_reads_the_weights_once_a_step_whatever_the_batch():
    shape, size = work.shape_of(tiny.qwen2()), work.known_sizes()["gsm8k"]
    once, prompt = int(size["examples_tokens"]), int(size["context_tokens"] - size["examples_tokens"])
    (one, moved), (many, less) = (
        work.evaluation(shape, "t", GSM8K | {"shared_examples": True, "batch_size": batch}, 0) for batch in (1, 100)
    )
    assert one == many == shape.forward(100 * prompt + once + 1000, 1100)
    rows = 4 * shape.cached * 1000 * (prompt + 5)
    for found, steps in [(moved, 1000), (less, 10)]:
        assert found == pytest.approx(steps * 4 * (shape.matrices + shape.head + shape.cached * once) + rows)
    apart, _ = work.evaluation(shape, "t", GSM8K, 0)
    assert apart - one == pytest.approx(2 * shape.matrices * 99 * once, rel=0.01)
    assert work.Card(tflops=2, gbps=4, gb=1, share=0.5).seconds(1e12, 2e9) == pytest.approx(2)


def test_a_model_that_stops_early_is_asked_less():
    shape, task = work.shape_of(tiny.qwen2()), GSM8K | {"limit": None, "batch_size": 1}
    early = [
        work.evaluation(shape, "t", task | {"stop_early": own}, 0, stopped=True)[0]
        for own in ({"after": 200}, {"after": 9999}, None)
    ]
    whole = work.evaluation(shape, "t", task | {"stop_early": {"after": 200}}, 0)[0]
    assert early[0] / whole == pytest.approx(200 / work.known_sizes()["gsm8k"]["items"])
    assert early[1] == early[2] == whole


def test_tasks_of_the_same_questions_share_their_answers():
    task = GSM8K | {"definition": None, "limit": None}
    assert work.questions("gsm8k", task) == work.questions("part", GSM8K)
    assert work.questions("aqua", task) != work.questions("part", GSM8K)
    for other in ({"num_fewshot": 5}, {"max_gen_toks": 9}, {"chat_template": True}, {"shared_examples": True}):
        assert work.questions("gsm8k", task | other) != work.questions("gsm8k", task)


def test_what_has_no_known_size_is_named():
    shape = work.shape_of(tiny.qwen2())
    with pytest.raises(InputError, match="tasks.mine: how many items it has"):
        work.evaluation(shape, "mine", GSM8K | {"definition": None}, 0)
    with pytest.raises(InputError, match="tasks.mine: how long the text is"):
        work.evaluation(shape, "mine", {"kind": "perplexity", "dataset": "d", "tokens": None}, 0)
