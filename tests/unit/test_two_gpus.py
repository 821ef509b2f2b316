"""A model on two GPUs, or with its data on one: nothing mixes devices, and it finds what a CPU does."""

from types import SimpleNamespace

import cards
import pytest
import torch
from accelerate import dispatch_model

import tiny
from pruning import api
from pruning.calibration import gradients, prepare
from pruning.evaluation import dense, generation, likelihood
from pruning.evaluation.kinds.perplexity import scored
from pruning.models import families, head


@pytest.fixture(autouse=True)
def two_cards(monkeypatch):
    monkeypatch.setattr(families, "device", lambda _, module: module.weight.device)  # else `meta` means on disk
    with cards.two_cards():
        yield


def llama(**given) -> torch.nn.Module:
    """Its attention in single operations, whose rounding is the same everywhere."""
    model = tiny.llama(**given)
    model.set_attn_implementation("eager")
    return model


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """The model over the two, as accelerate lays it: the second has the last layer, the norm and, untied, the head."""
    last = len(families.decoder_layers(model)) - 1
    where = {f"model.layers.{layer}": cards.SECOND if layer == last else cards.FIRST for layer in range(last + 1)}
    tied = model.config.tie_word_embeddings
    where |= {"model.embed_tokens": cards.FIRST, "model.rotary_emb": cards.FIRST, "model.norm": cards.SECOND}
    where["lm_head"] = cards.FIRST if tied else cards.SECOND
    return dispatch_model(model, where, cards.FIRST, skip_keys=model._skip_keys_device_placement)


def test_unlike_devices_are_refused_as_cuda_does():
    on = [torch.ones(3, 3).to(card) for card in (cards.FIRST, cards.SECOND)]
    refused = [lambda: on[0] + on[1], lambda: on[0] @ torch.ones(3, 3), lambda: on[0][on[1].long()]]
    refused += [lambda: torch.ones(3)[on[0].long()], lambda: torch.cat(on)]
    refused += [lambda: torch.rand(3, device=cards.FIRST, generator=torch.Generator())]
    for each in refused:
        with pytest.raises(RuntimeError):
            each()
    with pytest.raises(TypeError):
        on[0].numpy()
    assert (on[0] + torch.tensor(1.0) + on[1].to(cards.FIRST))[torch.tensor([0])].cpu().tolist() == [[3.0] * 3]


def test_statistics_on_two_gpus_are_a_cpus():
    batches = prepare.as_batches([torch.tensor([tiny.TEXT])])
    objectives = ("energy", "energy_post", "ce")
    found, expected = (gradients.statistics(model, batches, objectives) for model in (spread(llama()), llama()))
    for own, wanted in zip(found, expected, strict=True):
        assert own.equals(wanted)


def test_answers_and_likelihoods_on_two_gpus_are_a_cpus():
    prompts = [[3] * 20 + [7 + row] * (1 + row % 4 * 8) for row in range(9)]

    def ended(row: int, tokens: list[int]) -> bool:
        return len(tokens) > 9 + row

    def asked(model):
        prefix = generation.prefix_cache(model, prompts[0][:20])
        shared = generation.greedy(model, prompts, 24, ended, pad=0, prefix=prefix)
        return shared, likelihood.score(model, [[5, 6, 7], [8, 9]], [[[1, 2, 3], [1, 4]], [[5], [6, 7]]], 0)

    (answers, found), (wanted, expected) = asked(spread(llama())), asked(llama())
    assert answers == wanted
    for own, each in zip(sum(found, []), sum(expected, []), strict=True):
        assert own == pytest.approx(each, rel=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_divergences_on_two_gpus_are_a_cpus(tied):
    windows = torch.randint(1, 250, (5, 12))

    def made(seed: int = 0):
        return llama(seed=seed, tie_word_embeddings=tied)

    def compared(model):
        parameters, *states = dense.states(made(1), windows, 2)
        kept = SimpleNamespace(
            teacher=lambda model: dense.teacher(model, parameters), hidden=lambda n: states[n]["hidden"]
        )
        return list(scored(model, windows, 2, kept)), parameters, states[0]["hidden"]

    found, parameters, hidden = compared(model := spread(made()))
    for own, wanted in zip(found, compared(made())[0], strict=True):
        assert own == pytest.approx(wanted, rel=1e-5) and own[1] > 0.01
    ids = windows[:2].to(cards.FIRST)
    own = head.hidden_states(model, ids)
    rows = (each[:, :-1].flatten(0, 1) for each in (own, hidden.to(own.device)))
    learnt = head.divergences(model, next(rows), dense.teacher(model, parameters), next(rows)).view(2, -1)
    assert learnt.sum(1).tolist() == pytest.approx([kl for _, kl in found[:2]], rel=1e-5)


def test_a_programs_data_may_be_on_the_gpu():
    """Micro-batches are on the CPU: samples are counted there, and a stage sends tokens to where its model is."""
    ids = torch.tensor([tiny.TEXT, tiny.TEXT[::-1]]).to(cards.FIRST)
    [batch] = prepare.as_batches([{"input_ids": ids, "attention_mask": torch.ones_like(ids), "other": None}])
    assert {each.device.type for each in vars(batch).values()} == {"cpu"} and batch.ids.tolist()[0] == tiny.TEXT


def test_a_bias_is_added_to_one_on_the_gpu():
    ids, biases = torch.randint(1, 250, (6, 12)), []
    for model in (llama(mlp_bias=True).to(cards.FIRST), llama(mlp_bias=True)):
        mask = api.allocate(api.score("wanda", api.calibrate(model, [ids]), model), 0.5)
        small = api.reconstruct(api.compact(model, mask), model, [ids], mask, "bias")
        biases.append(families.decoder_layers(small)[0].mlp.down_proj.bias.tolist())
    assert biases[0] == pytest.approx(biases[1], rel=1e-5) and any(biases[1])
