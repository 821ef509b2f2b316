"""Work that is counted from shapes, against torch's own counter of what a model computes."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny
from pruning.analysis import work
from pruning.core.errors import InputError
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


def test_pruned_models_cost_what_is_left_of_them():
    narrow, whole = tiny.qwen2(intermediate_size=24), shape(tiny.qwen2())
    assert whole.kept(0.5) == shape(narrow).matrices


def test_generation_reads_the_weights_once_a_step_whatever_the_batch():
    own = shape(tiny.qwen2())
    one, many = (work.generated(own, 8, 10, batch) for batch in (1, 8))
    assert one.flops == many.flops and one.moved == 8 * many.moved
    assert many.moved == 10 * 4 * (own.matrices + own.head)
    card = work.Card(tflops=2, gbps=4, share=0.5)
    assert card.seconds(work.Work(flops=1e12, moved=2e9)) == pytest.approx(2)


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
