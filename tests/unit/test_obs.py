"""Optimal brain surgeon and leverage scores against brute force over subsets, and the curvature that is in them."""

import math

import numpy as np
import pytest
import torch
from test_second_moments import MODELS, SITES, micro_batches, unpadded

import tiny
from pruning.calibration import output_gradients as gradients
from pruning.core.errors import InputError
from pruning.methods import surgeon
from pruning.methods.scores import Layer, Weights, leverage, obs
from pruning.models import head
from pruning.models.checkpointing import checkpoint_gradients

N, D, TOKENS = 9, 4, 60


@pytest.fixture
def example():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(TOKENS, N)) @ rng.normal(size=(N, N)) * rng.uniform(0.2, 2, N)
    g = rng.normal(size=(TOKENS, D)) * [2, 1, 0.5, 0.1]
    return a, rng.normal(size=(D, N)).astype(np.float32), g


def layer_of(a, down, g, block: int = 1) -> Layer:
    half = len(a) // 3
    fit, held_out = a[half:], a[:half]
    counts = {"tokens_fit": len(fit), "tokens_held_out": half}
    kinds = {"second_moments": {"fit": np.float32(fit.T @ fit), "held_out": np.float32(held_out.T @ held_out)} | counts}
    kinds["output_gradients"] = {"gradients": np.float32(g.T @ g / len(g))}
    return Layer(0, {"n_tokens": np.ones(N)}, Weights(lambda _: down), kinds.__getitem__, block)


def damped(a, damping=1e-3):
    second = a.T @ a / len(a)
    return second + damping * second.diagonal().mean() * np.eye(N)


def loss_without(out: list[int], down, hessian, metric) -> float:
    """½ min over W', zero in the columns that are out, of tr((W - W') H (W - W')ᵀ G): one least-squares problem."""
    stay = [c for c in range(N) if c not in out]
    root = np.linalg.cholesky(hessian)  # ‖(W - W') root‖²
    target = down @ root
    found = np.linalg.lstsq(root[stay].T, target.T, rcond=None)[0].T if stay else np.zeros((D, 0))
    rest = target - found @ root[stay]
    return 0.5 * float(np.trace(rest.T @ metric @ rest))


def greedy(down, hessian, metric, block: int = 1) -> tuple[list[int], list[float]]:
    """Each time, of all blocks of neighbouring columns that are left, the one without which the loss is least."""
    out, losses = [], [0.0]
    while len(out) < N // block:
        left = [b for b in range(N // block) if b not in out]
        columns = [[b * block + c for b in [*out, more] for c in range(block)] for more in left]
        totals = [loss_without(each, down, hessian, metric) for each in columns]
        out.append(left[int(np.argmin(totals))])
        losses.append(min(totals))
    return out, list(np.diff(losses))


@pytest.mark.parametrize("metric", ["fisher", "output"])
@pytest.mark.parametrize("block", [1, 3])
def test_neurons_and_groups_leave_as_brute_force_over_subsets_has_them(example, metric, block):
    a, down, g = example
    curvature = g.T @ g / len(g) if metric == "fisher" else np.eye(D)
    order, losses = greedy(down.astype(np.float64), damped(a), curvature, block)
    scores = obs.score(layer_of(a, down, g, block), metric=metric)
    assert np.argsort(scores, kind="stable").tolist() == order
    assert scores[order] == pytest.approx(np.maximum.accumulate(losses), rel=1e-4)


@pytest.mark.parametrize(("at_once", "block"), [(3, 1), (4, 1), (2, 3)])
def test_a_chunk_is_chosen_one_after_another_where_all_are_candidates(example, at_once, block):
    a, down, _ = example
    second, weight = torch.from_numpy(a.T @ a / len(a)), torch.from_numpy(down).double()
    order, losses = surgeon.removals(second, weight, 1e-3, at_once, block)
    expected = greedy(down.astype(np.float64), damped(a), np.eye(D), block)
    assert order.tolist() == expected[0]
    assert losses == pytest.approx(expected[1])


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("block", [1, 3])
def test_twins_are_not_removed_together(noise, block):
    """Half of the blocks repeat the others up to noise: removed in chunks, half cost what they do one by one."""
    rng, half = np.random.default_rng(0), 128 // block
    first = rng.normal(size=(1000, half * block)) @ rng.normal(size=(half * block, half * block)) / 11
    a = np.hstack([first, first + noise * rng.normal(size=first.shape)])
    second, down = a.T @ a / len(a), rng.normal(size=(64, a.shape[1]))
    inverse = np.linalg.inv(second + 1e-3 * second.diagonal().mean() * np.eye(len(second)))
    whole = []
    for at_once in (1, 8):
        order, losses = surgeon.removals(torch.from_numpy(second), torch.from_numpy(down), 1e-3, at_once, block)
        gone = (order[:half, None] * block + np.arange(block)).flatten()
        without = 0.5 * np.trace(down[:, gone] @ np.linalg.solve(inverse[np.ix_(gone, gone)], down[:, gone].T))
        assert losses[:half].sum() == pytest.approx(without)
        assert sorted(order) == list(range(2 * half))
        whole.append(without)
    assert whole[1] == pytest.approx(whole[0], rel=0.01)


@pytest.mark.parametrize("block", [1, 3])
def test_as_many_chunks_as_blocks_leave_one_by_one(example, block, monkeypatch):
    a, down, _ = example
    monkeypatch.setattr(surgeon, "CANDIDATES", 1)  # a larger chunk would be what is cheapest at first
    a, down = np.hstack([a, a + 0.01 * np.random.default_rng(0).normal(size=a.shape)]), np.hstack([down, down])
    second, weight = torch.from_numpy(a.T @ a / len(a)), torch.from_numpy(down).double()
    order, _ = surgeon.removals(second, weight, 1e-3, block=block)
    monkeypatch.setattr(surgeon, "CHUNKS", 2 * N // block)
    scores = surgeon.least_losses(second, None, weight, torch.device("cpu"), block=block)
    assert scores.argsort().tolist() == order.tolist()


@pytest.mark.parametrize("block", [2, 3])
def test_blocks_of_any_order_leave_what_brute_force_leaves(block):
    """Six channels: three groups of two, two of three; every order of them in turn the cheapest, loss by loss."""
    rng, number, orders = np.random.default_rng(1), 6 // block, set()
    for _ in range(40):
        a = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) * np.repeat(rng.uniform(0.3, 3, number), block)
        down, root = rng.normal(size=(D, 6)), rng.normal(size=(D, D))
        second, weight = torch.from_numpy(a.T @ a / len(a)), torch.from_numpy(root @ down)
        order, losses = surgeon.removals(second, weight, 0, block=block)
        orders.add(tuple(order))
        for gone in range(1, number + 1):
            stay = np.repeat(~np.isin(np.arange(number), order[:gone]), block)
            target = a @ down.T @ root.T
            fit = a[:, stay] @ np.linalg.lstsq(a[:, stay], target, rcond=None)[0]
            assert losses[:gone].sum() == pytest.approx(0.5 * np.square(target - fit).sum() / len(a))
    assert len(orders) == math.factorial(number)


def test_a_group_of_one_channel_is_a_neuron_and_a_silent_one_leaves_first(example):
    a, down, g = example
    second, weight = torch.from_numpy(a.T @ a / len(a)), torch.from_numpy(down).double()
    spread = torch.zeros(N, 2, N, 2, dtype=torch.float64)  # every column, and a second one that is silent
    spread[:, 0, :, 0] = second
    wide = torch.stack([weight, torch.zeros_like(weight)], 2).flatten(1)
    found = surgeon.removals(spread.reshape(2 * N, 2 * N), wide, 2e-3, block=2)  # half the mean diagonal
    for own, expected in zip(found, surgeon.removals(second, weight, 1e-3), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-9)
    a[:, 3:6] = 0
    assert obs.score(layer_of(a, down, g, 3)).argmin() == 1


@pytest.mark.parametrize("block", [1, 2])
def test_what_is_worth_little_without_what_has_left_is_no_cheaper(block):
    """A target s, told by a loud s + m and by m, which is loud noise: either alone is worth next to nothing."""
    s, m, *silent = np.random.default_rng(0).normal(size=(4, 500)) * [[1], [10], [1], [1]]
    columns = [s + m, m] if block == 1 else [s + m, silent[0], m, silent[1]]
    down = torch.zeros(1, len(columns), dtype=torch.float64)
    down[0, 0], down[0, block] = 1, -1
    second = torch.from_numpy(np.array(columns) @ np.transpose(columns) / 500)
    order, losses = surgeon.removals(second, down, 1e-9, block=block)
    assert losses[1] < 0.1 * losses[0]
    scores = surgeon.least_losses(second, None, down, torch.device("cpu"), 1e-9, block)
    assert scores[order[0]] == losses[0] < scores[order[1]]


def test_a_direction_that_no_answer_depends_on_costs_nothing(example):
    a, down, g = example
    down[1:, 2] = 0  # neuron 2 writes along the first dimension alone
    g[:, 0] = 0
    assert obs.score(layer_of(a, down, g))[2] == pytest.approx(0, abs=1e-12)
    assert obs.score(layer_of(a, down, g), metric="output")[2] > 0.01


def test_a_silent_neuron_and_an_unknown_metric(example):
    a, down, g = example
    a[:, 5] = 0
    assert obs.score(layer_of(a, down, g)).argmin() == 5
    with pytest.raises(ValueError, match="unknown metric 'mse'; known: fisher, output"):
        obs.score(layer_of(a, down, g), metric="mse")


@pytest.mark.parametrize(("options", "ridge"), [({}, 1), ({"ridge": 0.5}, 0.5)])
def test_leverage_is_the_share_of_a_neuron_that_ridge_regression_keeps(example, options, ridge):
    a, down, g = example
    penalty = ridge * np.square(a).sum(0).mean()
    smoother = a @ np.linalg.solve(a.T @ a + penalty * np.eye(N), a.T)  # of the tokens
    values, vectors = np.linalg.eigh(a.T @ a)
    expected = np.square(vectors) @ (values / (values + penalty))
    found = leverage.score(layer_of(a, down, g), **options)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found.sum() == pytest.approx(np.trace(smoother), rel=1e-5)


# output gradients


def by_tokens(model, batches, structure) -> tuple[list[np.ndarray], int]:
    """Σ g gᵀ of one forward and backward pass a sample, unpadded, with the text's own labels; and the tokens."""
    sums, tokens = [0.0] * len(model.model.layers), 0
    for _, ids in unpadded(batches):
        sites = [layer.get_submodule(SITES[structure]) for layer in model.model.layers]
        with torch.enable_grad(), tiny.watched(sites) as calls:
            logits = model(inputs_embeds=model.get_input_embeddings()(ids).requires_grad_(True)).logits
            loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")
            every = torch.autograd.grad(loss, [output for [(_, output)] in calls])
        sums = [total + (g[0].T.double() @ g[0].double()).numpy() for total, g in zip(sums, every, strict=True)]
        tokens += ids.shape[1] - 1
    return sums, tokens


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("structure", SITES)
@pytest.mark.parametrize("again", [False, True], ids=["", "layers computed again"])
def test_output_gradients_are_those_of_each_token(name, structure, again, monkeypatch):
    model, batches = MODELS[name](), micro_batches()
    expected, number = by_tokens(model, batches, structure)
    if again:
        checkpoint_gradients(model)
    ids = iter([batch.ids for batch in batches])
    monkeypatch.setattr(head, "drawn_tokens", lambda *_: next(ids))
    found, tokens = gradients.output_gradients(model, batches, 0, structure=structure)
    assert tokens == number
    for total, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(total, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())
    assert not any(module._forward_hooks for module in model.modules())


def test_labels_are_drawn_as_the_model_expects_them(monkeypatch):
    model = MODELS["llama"]()
    hidden = head.hidden_states(model, torch.tensor([[5, 9, 17]])).expand(4000, -1, -1)
    drawn = head.drawn_tokens(model, hidden, seed=1)
    assert drawn.shape == (4000, 3) and not drawn[:, 0].any()
    chances = head.logits_of(model, hidden[:1]).softmax(-1)[0]
    for position in (0, 1):  # what is drawn at a place follows from the place before it
        counts = torch.bincount(drawn[:, position + 1], minlength=chances.shape[-1]) / 4000
        assert (counts - chances[position]).abs().max() < 5 * (0.25 / 4000) ** 0.5
    assert torch.equal(drawn, head.drawn_tokens(model, hidden, seed=1))
    assert not torch.equal(drawn, head.drawn_tokens(model, hidden, seed=2))


def test_a_broken_weight_is_named():
    model = MODELS["llama"]()
    model.model.layers[2].mlp.up_proj.weight.data[0, 0] = torch.inf
    with pytest.raises(InputError, match="NaN or Inf in hidden states from calibration sample 0 on"):
        gradients.output_gradients(model, micro_batches(), seed=0)
