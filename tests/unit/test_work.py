"""What `estimate` counts for jobs, against torch's own counter of what the stages compute, and against sums by hand."""

import copy
import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny
from pruning.calibration import output_gradients, prepare, second_moments
from pruning.calibration.gradients import Calibration
from pruning.command import cards, work
from pruning.config import calibration, methods, models, tasks
from pruning.evaluation import generation, recovery
from pruning.methods import refit, rounds, sensitivity
from pruning.models import rehearsal
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.loading import load

COUNTING = cards.Card(tflops=1e-12, gbps=1e-9, gb=1, share=1)  # an operation, or a byte, a second
TEXT = {
    "dataset": "d",
    "samples": 10,
    "micro_batch": 5,
    "sequence_length": 16,
    "rounds": [25, 50],
    "probed": 5,
    "shards": 2,
}
TOLD = {"dataset": "d", "steps": 2, "batch_size": 5, "sequence_length": 16}
LAYER = (64 * 64 + 64) + 2 * (64 * 32 + 32) + 64 * 64 + 3 * 64 * 128 + 2 * 64  # q, k and v, o, FFN, norms
PARAMETERS, CACHED = 4 * LAYER + 257 * 64, 4 * 2 * 2 * 16  # head; layers, keys and values, heads, size of a head
LOADING = 4 * PARAMETERS / work.READING


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tiny.qwen2(layers=4, hidden_size=64, intermediate_size=128)
    return tiny.save(made, tmp_path_factory.mktemp("m") / "model")


def job(folder, rule: str, again: bool = False, method: dict | None = None, offload: bool = False, **given) -> work.Job:
    """A job. again: layers are computed again; given: its wildcards, the card, what tasks there are, the samples of
    gradients, and the folder of the first model of an iteration."""
    folders, own = {"tiny": folder, "first": given.pop("first", folder)}, {"gpus": given.pop("gpus", 0)}
    own_samples = {"gradient_samples": given.pop("gradient_samples", None)}
    config = SimpleNamespace(
        models={
            name: models.Model(source={"kind": "local", "path": str(path)}, offload=offload, **own)
            for name, path in folders.items()
        },
        calibrations={"text": calibration.Calibration(**TEXT, gradient_checkpointing=again, **own_samples)},
        tunings={
            name: calibration.Tuning(**TOLD, gradient_checkpointing=again, objective=name)
            for name in ("cross_entropy", "distillation")
        },
        tasks=given.pop("tasks", {}),
        method=lambda _: methods.Method(**{"score": "wanda", **(method or {})}),
        lineage=lambda model: ["tiny", "first"] if folders["first"] != folder else ["tiny"],
    )
    wildcards = {"model": "tiny", "calib": "text", "tuning": "cross_entropy", "method": "own", **given}
    return work.Job(work.Run(config, given.pop("card", COUNTING)), rule, wildcards)


def batches() -> list[prepare.Batch]:
    return prepare.micro_batches([([1 + row] * 16, [True] * 16) for row in range(10)], 5, pad=0, token_mask="all")


def calibrated(network) -> None:
    with Calibration(network, ["energy", "ce"]) as run:
        run.run(batches())


def tuned(network) -> None:
    adapted = recovery.with_adapters(network, calibration.Tuning(**TOLD).model_dump())
    for _ in range(2):
        recovery.backward(adapted, *2 * [torch.ones(5, 16, dtype=torch.long)])


def refitted(network) -> None:
    list(refit.refit(network, batches(), {"ffn": [np.arange(128) < 64] * 4}, "attention"))


def trained(network) -> None:
    list(refit.refit(network, batches(), {"ffn": [np.arange(128) < 64] * 4}, "block", plan=PLAN))


def cut(search: str):
    def run(network) -> None:
        list(getattr(sensitivity, search)(sensitivity.Probe(network, batches()[:1], [np.arange(128.0)] * 4, [1] * 4)))

    return run


PLAN = {"epochs": 3, "rates": [1e-3, 1e-4]}
BLOCK = {"method": {"compensate": "ridge_block", "training": PLAN}}
HALF = {"method": {"compensate": "ridge_attention"}, "sparsity": "50"}
GREEDY = {"allocate": "greedy"}
REAL = {
    "observe": ({}, calibrated),
    "observe, again": ({"again": True}, calibrated),
    "second_moments": ({}, lambda network: list(second_moments.second_moments(network, batches()))),
    "output_gradients": ({}, lambda network: output_gradients.output_gradients(network, batches(), 0)),
    "output_gradients, again": ({"again": True}, lambda n: output_gradients.output_gradients(n, batches(), 0)),
    "recover": ({}, tuned),
    "recover, again": ({"again": True}, tuned),
    "refit": (HALF, refitted),
    "refit, trained": (HALF | BLOCK, trained),
    "rounds": ({}, lambda network: rounds.removal_order(lambda: copy.deepcopy(network), batches(), [25, 50], 0)),
    "sensitivity, layers": ({"method": {"allocate": "sensitivity"}}, cut("layers")),
    "sensitivity, greedy": ({"method": GREEDY}, cut("greedy")),
}


@pytest.mark.parametrize("case", REAL)
def test_counted_operations_are_those_of_the_real_stage_within_a_factor(folder, case):
    network, (given, compute) = load(folder, "float32", "cpu")[0], REAL[case]
    if "again" in given:
        checkpoint_gradients(network)
    with FlopCounterMode(display=False) as counter:
        compute(network)
    found = job(folder, case.partition(",")[0], **given).seconds - LOADING
    assert 0.6 < found / counter.get_total_flops() < 1.5


SUMS = 4 * 128**2 / PARAMETERS  # of second moments, in passes
PASSES = [  # of 160 tokens
    *(("observe", {}, 3), ("observe", {"again": True}, 5), ("calibrate_shard", {}, 1.5)),
    *(("output_gradients", {}, 2), ("attention_output_gradients", {"again": True}, 3)),
    ("output_gradients", {"gradient_samples": 2}, 2 * 2 / 10),
    *(("second_moments", {}, 1 + SUMS), ("attention_second_moments", {}, 1 + SUMS / 4)),
    ("refit", BLOCK, 3 + SUMS + (0.8 * 3 + 0.2) * 3 * 5 / 4),  # two rates in the first of four layers
    *(("refit", {}, 3 + SUMS), ("rounds", {}, 3 * (3 + SUMS) + 2 * (3 + SUMS))),
    ("rounds", {"gradient_samples": 2}, 3 * (2 * 2 / 10 + 1 + SUMS) + 2 * (3 + SUMS)),
    *(("sensitivity", {"method": {"allocate": "sensitivity"}}, 16), ("sensitivity", {"method": GREEDY}, 48)),
    *(("recover", {}, 2 * 2), ("recover", {"again": True, "tuning": "distillation"}, 2 * 4)),
]


@pytest.mark.parametrize("rule, given, passes", PASSES)
def test_passes_by_hand(folder, rule, given, passes):
    """Half of the samples are probed, at 16 levels of 4 layers; a recovery has two steps of 80 tokens."""
    tokens = 80 if rule == "recover" else 160
    assert job(folder, rule, **given).seconds - LOADING == pytest.approx(2 * PARAMETERS * tokens * passes)


def test_least_squares_by_hand(folder):
    """Of 4 layers of 128 inputs and 64 outputs, in float64 on a CPU that is slower than the card."""
    slow = COUNTING._replace(tflops=1, host=1e-12)

    def fit(kept: int) -> float:
        return 4 * 64 * 128 * (128 - kept) + 4 * (kept**3 / 3 + 2 * 64 * kept**2) + 6 * 64 * kept**2

    def seconds(rule: str, **given) -> float:
        return job(folder, rule, card=slow, **given).seconds - (LOADING if rule != "score" else 0)

    ridge = {"compensate": "ridge_corrective"}
    assert seconds("score", method={"score": "obs"}) == pytest.approx(4 * 1.8 * 128**3)
    assert job(folder, "score", method={"score": "wanda"}).seconds is None
    assert seconds("refit", sparsity="50", method=ridge) == pytest.approx(4 * fit(64), rel=1e-6)
    factor, widths = 128**3 / 3 + 64 * 128**2, sum(64 * (8 * level) ** 2 for level in range(16))
    for allocate, factorised in (("sensitivity", 1), ("greedy", 16)):
        expected = 4 * (fit(64) + factorised * factor + widths)
        assert seconds("sensitivity", method=ridge | {"allocate": allocate}) == pytest.approx(expected, rel=1e-6)
    assert seconds("sensitivity", method={"allocate": "sensitivity"}) < 1
    iterations = 3 * 1.8 * 128**3 + fit(128 * 0.75) + fit(128 * 0.5)
    assert seconds("rounds", method=ridge) == pytest.approx(4 * iterations, rel=1e-6)


def test_a_refit_that_trains_takes_more_memory(folder):
    """Six copies of a layer in float32, and its activations; 2-dimensional weights alone."""
    plain, trained = (job(folder, "refit", **given).memory for given in (HALF, HALF | BLOCK))
    copy = 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)
    assert 6 * copy < 1e9 * (trained - plain) < 20 * copy


def test_what_stays_with_the_cpu_is_not_counted_on_a_gpu(folder):
    on_cpu, on_gpu = (job(folder, "refit", **HALF, gpus=gpus).memory for gpus in (0, 1))
    kept = 10 * 16 * 4 * (128 + 5 * 64) + 8 * (3 * 128**2 + 6 * 128 * 64)  # of 160 tokens; least squares in float64
    assert on_cpu - on_gpu == pytest.approx((kept + 2 * 4 * 128**2) / 1e9)  # and sums, which are float32 there


def test_layers_on_disk_are_read_for_each_pass_and_one_is_in_memory(folder):
    usual, offloaded = (job(folder, "observe", again=True, offload=each) for each in (False, True))
    assert job(folder, "observe", offload=True).memory == offloaded.memory  # they are computed again, unasked
    assert usual.memory - offloaded.memory == pytest.approx(3 * 4 * LAYER / 1e9)
    assert offloaded.seconds - usual.seconds == pytest.approx((5 * 2 - 1) * LOADING, rel=1e-4)  # two micro-batches
    assert job(folder, "recover", offload=True).memory == job(folder, "recover").memory


def test_removed_neurons_are_not_counted(folder):
    left = 2 * (PARAMETERS - 4 * 3 * 64 * 64)
    assert job(folder, "refit", **HALF).seconds - LOADING == pytest.approx(160 * (3 * left + 2 * 4 * 64**2))


def test_of_a_teacher_the_head_alone_is_held(folder):
    taught, told = (job(folder, "recover", tuning=each).memory for each in ("distillation", "cross_entropy"))
    assert 4 * 257 * 64 < 1e9 * (taught - told) < 4 * PARAMETERS


def test_a_token_goes_through_as_many_experts_however_many_are_left():
    """Two of six, in two layers; generating reads all that there are."""
    shape, experts = work.shape_of(tiny.of_family("mixtral")), 2 * 6 * 3 * 32 * 24
    assert shape.kept(0) == shape.kept(0.5) == shape.parameters
    assert [shape.read(share) - shape.parameters for share in (0, 0.5)] == [experts * 4 / 6, experts / 6]


GSM8K = {"kind": "lm_eval", "title": "t", "metrics": ["m"], "definition": "gsm8k"}
GSM8K |= {"limit": 100, "batch_size": 50, "max_gen_toks": 10}
TASKS = {
    "alone": tasks.LmEvalTask(**GSM8K),
    "shared": tasks.LmEvalTask(**GSM8K, shared_examples=True),
    "reasoned": tasks.LmEvalTask(**GSM8K | {"definition": "aqua_cot"}),
    "options": tasks.LmEvalTask(**GSM8K | {"definition": "aqua"}),
    "text": tasks.PerplexityTask(kind="perplexity", title="t", dataset="wikitext2", tokens=5000, divergence=True),
    "guessed": tasks.LmEvalTask(**GSM8K | {"definition": None}),  # prompts of 256 tokens
    "other options": tasks.LmEvalTask(**GSM8K | {"definition": None, "max_gen_toks": None}),  # four of 256
    "unknown": tasks.LmEvalTask(**GSM8K | {"definition": None, "limit": None}),
    "unknown text": tasks.PerplexityTask(kind="perplexity", title="t", dataset="d"),
}


def evaluation(folder, task: str, variant: str = "dense", **given) -> work.Job:
    return job(folder, "evaluate", variant=variant, task=task, tasks=TASKS, **given)


def test_evaluations_by_hand(folder):
    """GSM8K's prompts have 997 tokens, of which 936 are the same; AQuA's 100, and 33.5 of options. Answers of at most
    10 tokens have 6, but a batch's longest."""
    dense, weights = 2 * PARAMETERS, 4 * PARAMETERS
    cached = 4 * CACHED
    for task, tokens, moved in [
        ("alone", 100 * 1003, 20 * weights + cached * 600 * 1000),
        ("shared", 936 + 100 * 67, 20 * weights + cached * (20 * 936 + 600 * 64)),
        ("options", 100 * 133.5, 0),
        ("other options", 100 * 1024, 0),
        ("guessed", 100 * 262, 20 * weights + cached * 600 * 259),
        ("text", 0, 0),  # the dense model's layers ran when its hidden states were kept
    ]:
        found = evaluation(folder, task).seconds - LOADING
        assert found == pytest.approx(dense * tokens + moved), task
    both = evaluation(folder, "options,shared").seconds
    assert both + LOADING == pytest.approx(sum(evaluation(folder, task).seconds for task in ("options", "shared")))
    halved = evaluation(folder, "text", "text/own/50")  # compared with the dense model
    assert halved.seconds - LOADING == pytest.approx(5000 * 2 * (PARAMETERS - 4 * 3 * 64 * 64))
    assert halved.memory == evaluation(folder, "text").memory
    kept = job(folder, "hidden_states", task="text", tasks=TASKS)
    assert kept.seconds - LOADING == pytest.approx(5000 * dense) and kept.written == pytest.approx(5000 * 64 * 4 / 1e9)
    assert evaluation(folder, "options,unknown").seconds is evaluation(folder, "unknown text").seconds is None


def test_a_card_is_taken_at_a_share_of_its_speed():
    own = cards.Card(tflops=2, gbps=4, gb=1, share=0.5, host=1)
    assert own.seconds(1e12, 2e9) == pytest.approx(2) and own.seconds(0, solved=3e12) == pytest.approx(6)


def test_a_machine_is_as_fast_as_when_nothing_else_runs():
    pauses = itertools.cycle([0.1, 0.02, 0.1])
    assert 0.02 <= cards.fastest(lambda: time.sleep(next(pauses))) < 0.1
    found = cards.measured("cpu", "float32")
    assert found.tflops > 0 and found.gbps > 0 and found.share == cards.CPU_SHARE


def test_no_more_is_answered_at_once_than_fits_beside_the_weights(folder):
    """Batches are halved from 50 to 12; prompts are taken to be twice the mean."""
    row, shared = 4 * 2 * 61 * (CACHED + 3 * 128 + 5 * 64), 4 * 936 * CACHED
    own = evaluation(folder, "shared")
    assert own.run.answering("tiny", "shared") == (50, shared + 50 * row)
    room = (own.shape.weights + shared + 20 * row) / 1e9
    short = evaluation(folder, "shared", gpus=1, card=COUNTING._replace(gb=room))
    assert short.seconds - own.seconds == pytest.approx(70 * 4 * (PARAMETERS + CACHED * 936))  # nine batches, not two
    assert short.memory == pytest.approx((own.shape.weights + shared + 12 * row) / 1e9)


def test_answers_take_what_generation_takes(tmp_path):
    """Of the longest prompts, twice as long as AQuA's mean of 99 tokens."""
    network = tiny.qwen2(hidden_size=256, intermediate_size=1024)
    run = evaluation(tiny.save(network, tmp_path), "reasoned").run
    prompts = [[1 + row] * 198 for row in range(50)]
    real = rehearsal.rehearsed(network, lambda: generation.greedy(network, prompts, 10, lambda *_: False, pad=0))
    assert run.answering("tiny", "reasoned")[1] == pytest.approx(real.bytes, rel=0.15)
