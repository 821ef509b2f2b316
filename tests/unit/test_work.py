"""Work that is counted from shapes, against torch's own counter of what a model computes."""

import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny
from pruning.analysis import work
from pruning.calibration import output_gradients as gradients
from pruning.calibration import prepare
from pruning.core.errors import InputError
from pruning.methods import refit, sensitivity
from pruning.models.structures import ffn


def shape(model) -> work.Shape:
    raw = json.loads(model.config.to_json_string())
    total, embedding = sum(p.numel() for p in model.parameters()), model.get_input_embeddings().weight.numel()
    return work.shape_of(raw, len(ffn.sites(model)), embedding, total, 4)


def counted(compute) -> int:
    """Floating-point operations of matrix products, without those between tokens (attention)."""
    with FlopCounterMode(display=False) as counter:
        compute()
    flops = counter.get_flop_counts()["Global"]
    return sum(n for kind, n in flops.items() if str(kind) in ("aten.mm", "aten.addmm", "aten.bmm"))


@pytest.mark.parametrize("make", [tiny.qwen2, tiny.llama])
def test_a_forward_pass_costs_two_operations_a_parameter_and_token(make):
    model, ids = make(), torch.randint(1, 257, (3, 16))
    found = counted(lambda: model(ids))
    assert work.forward(shape(model), 48, 48).flops == pytest.approx(
        found, rel=0.02
    )  # norms and biases are counted, too


def test_backward_to_activations_costs_as_much_again():
    model, ids = tiny.qwen2().requires_grad_(False), torch.randint(1, 257, (3, 16))
    embedded = model.get_input_embeddings()(ids).requires_grad_(True)
    found = counted(lambda: model(inputs_embeds=embedded).logits.sum().backward())
    own = {"samples": 3, "sequence_length": 16, "shards": 1, "objectives": ["ce"], "gradient_checkpointing": False}
    assert work.calibration(shape(model), own).flops == pytest.approx(found, rel=0.02)


def micro_batches(rows: int, length: int) -> list[prepare.Batch]:
    sequences = [([1 + row] * length, [True] * length) for row in range(rows)]
    return prepare.micro_batches(sequences, rows, pad=0, token_mask="all")


TEXT = {"samples": 5, "sequence_length": 16, "gradient_checkpointing": False, "rounds": [25, 50]}


def test_curvature_costs_two_passes_and_the_products_of_gradients():
    model = tiny.qwen2(layers=12)
    found = counted(lambda: gradients.output_gradients(model, micro_batches(5, 16), 0))
    expected = work.output_gradients(shape(model), TEXT).flops
    assert expected == pytest.approx(found, rel=0.08)  # of the first layer no gradient is asked


@pytest.mark.parametrize("scheme", ["sequential", "corrective", "attention"])
def test_a_refit_costs_passes_of_the_dense_and_of_the_cut_layers_and_sums(scheme):
    model, keeps = tiny.qwen2(), [np.arange(48) < 24] * 2
    found = counted(lambda: list(refit.refit(model, micro_batches(5, 16), keeps, scheme)))
    expected = work.refit(shape(tiny.qwen2()), TEXT, f"ridge_{scheme}", 0.5).flops
    assert expected == pytest.approx(found, rel=0.1)  # attention's own sums


def test_rounds_cost_their_passes():
    own = shape(tiny.qwen2())
    each = work.output_gradients(own, TEXT) + work.second_moments(own, TEXT)
    refits = [work.refit(own, TEXT, "ridge_attention", gone) for gone in (0.25, 0.5)]
    assert work.rounds(own, TEXT).flops == 3 * each.flops + refits[0].flops + refits[1].flops


@pytest.mark.parametrize("search", ["layers", "greedy"])
def test_measuring_cuts_costs_the_layers_that_follow_them(search):
    model, scores = tiny.qwen2(layers=4), [np.arange(48.0)] * 4
    run = getattr(sensitivity, search)
    found = counted(lambda: list(run(sensitivity.Probe(model, micro_batches(5, 16), scores, [1] * 4))))
    expected = work.sensitivity(shape(tiny.qwen2(layers=4)), {**TEXT, "probed": 64}, search).flops
    # that a layer at its least is tried no more is left out
    assert expected == pytest.approx(found, rel=0.1) if search == "layers" else found < expected < 2 * found


def test_measuring_cuts_of_groups_costs_one_a_layer_more_here():
    model = tiny.qwen2(layers=4)
    parts = [(np.arange(48.0), "ffn"), (np.arange(2.0), "kv_groups")]

    def both() -> None:
        for scores, structure in parts:
            probe = sensitivity.Probe(model, micro_batches(5, 16), [scores] * 4, [1] * 4, None, structure)
            list(sensitivity.layers(probe))

    expected = work.sensitivity(shape(tiny.qwen2(layers=4)), {**TEXT, "probed": 64}, "layers", groups=2).flops
    assert expected == pytest.approx(counted(both), rel=0.1)


def test_a_teacher_costs_its_own_pass_as_large_as_it_is():
    own, dense = shape(tiny.qwen2(intermediate_size=24)), shape(tiny.qwen2())
    tuning = {"steps": 3, "batch_size": 2, "sequence_length": 8, "gradient_checkpointing": False}
    alone, taught = (
        work.recovery(own, {**tuning, "objective": objective}, 0.5, dense)
        for objective in ("cross_entropy", "distillation")
    )
    assert taught.flops - alone.flops == 2 * 48 * (dense.matrices + dense.head)


def test_pruned_models_cost_what_is_left_of_them():
    narrow, whole = tiny.qwen2(intermediate_size=24), shape(tiny.qwen2())
    assert whole.kept(0.5) == shape(narrow).matrices


def test_generation_reads_the_weights_once_a_step_whatever_the_batch():
    own = shape(tiny.qwen2())
    one, many = (work.generated(own, 8, 10, batch, prompt=7, shared=30) for batch in (1, 8))
    assert one.flops == many.flops
    weights, rows = 10 * 4 * (own.matrices + own.head), 4 * own.cached * 8 * 10 * (7 + 5)
    once = 4 * own.cached * 10 * 30  # what all rows share, a step
    assert many.moved == weights + rows + once and one.moved == 8 * weights + rows + 8 * once
    card = work.Card(tflops=2, gbps=4, gb=1, share=0.5)
    assert card.seconds(work.Work(flops=1e12, moved=2e9)) == pytest.approx(2)


@pytest.mark.parametrize("make", [tiny.qwen2, tiny.llama])
def test_a_token_keeps_what_the_cache_holds_of_it(make):
    model = make()
    cache = model(torch.randint(1, 257, (1, 5)), use_cache=True).cache
    assert 5 * shape(model).cached == sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)


def test_a_model_that_stops_early_is_asked_less():
    own, task = shape(tiny.qwen2()), {"kind": "lm_eval", "definition": "gsm8k", "limit": None, "batch_size": 1}
    task |= {"max_gen_toks": 1, "shared_examples": False, "stop_early": {"after": 200}}
    whole, stopped = (work.evaluation(own, "t", task, 0, stopped=s).flops for s in (False, True))
    assert stopped / whole == pytest.approx(200 / work.known_sizes()["gsm8k"]["items"])
    assert work.evaluation(own, "t", task | {"stop_early": None}, 0, stopped=True).flops == whole
    assert work.evaluation(own, "t", task | {"stop_early": {"after": 9999}}, 0, stopped=True).flops == whole


def test_tasks_of_the_same_questions_share_their_answers():
    task = {"kind": "lm_eval", "definition": None, "num_fewshot": 0, "limit": None, "batch_size": 8}
    part = task | {"definition": "gsm8k", "limit": 100, "batch_size": 1}
    assert work.shares_answers(task, "gsm8k", part, "part") and work.shares_answers(part, "part", task, "gsm8k")
    assert not work.shares_answers(task, "aqua", part, "part")
    assert not work.shares_answers(task | {"num_fewshot": 5}, "gsm8k", part, "part")


def test_examples_that_all_questions_share_are_computed_once():
    own, task = shape(tiny.qwen2()), {"kind": "lm_eval", "definition": "gsm8k", "limit": 100, "batch_size": 50}
    task |= {"max_gen_toks": 1}
    apart, shared = (work.evaluation(own, "t", task | {"shared_examples": s}, 0) for s in (False, True))
    saved = 2 * own.matrices * 99 * work.known_sizes()["gsm8k"]["examples_tokens"]
    assert apart.flops - shared.flops == pytest.approx(saved)


def test_what_has_no_known_size_is_named():
    own, task = shape(tiny.qwen2()), {"kind": "lm_eval", "definition": None, "limit": None}
    with pytest.raises(InputError, match="tasks.mine: how many items it has"):
        work.evaluation(own, "mine", task, 0)
    with pytest.raises(InputError, match="tasks.mine: how long the text is"):
        work.evaluation(own, "mine", {"kind": "perplexity", "dataset": "d", "tokens": None}, 0)
