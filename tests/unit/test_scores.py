"""Every score against its formula written out as loops over neurons, hidden dimensions and tokens."""

import importlib
import inspect
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.config.methods import Method
from pruning.methods import scores
from pruning.methods.scores import Layer, Weights, fluctuation, random, utility
from pruning.methods.scores import maw as maw_score
from pruning.methods.scoring import NORMALISATIONS, layer_l2, layer_mean, layer_sum, zscore

SAMPLES, TOKENS, NEURONS, HIDDEN = 3, 5, 7, 4
OBJECTIVES, REDUCTIONS = ("energy", "ce"), ("net_abs", "net_sq", "abs", "sq", "share", "grad_sq")


class Example:
    """Random weights, activations a[x, t, c] and gradients g[objective][x, t, c], and the statistics they make."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        shape = (SAMPLES, TOKENS, NEURONS)
        self.a = rng.normal(size=shape) * rng.uniform(0.1, 3, NEURONS) + rng.normal(size=NEURONS)
        self.g = {objective: rng.normal(size=shape) for objective in OBJECTIVES}
        self.gate, self.up = (rng.normal(size=(NEURONS, HIDDEN)).astype(np.float32) for _ in range(2))
        self.down = rng.normal(size=(HIDDEN, NEURONS)).astype(np.float32)

    def statistics(self) -> dict[str, np.ndarray]:
        a, counts = self.a, {"n_tokens": SAMPLES * TOKENS, "n_samples": SAMPLES}
        columns = {name: np.full(NEURONS, float(count)) for name, count in counts.items()}
        columns |= {"act_sum": a.sum((0, 1)), "act_abs_sum": np.abs(a).sum((0, 1)), "act_sq_sum": (a**2).sum((0, 1))}
        columns["act_mean_abs_sq_sum"] = (np.abs(a).mean(1) ** 2).sum(0)
        for objective, g in self.g.items():
            p = a * g
            share = np.abs(p).sum(1) / np.abs(p).sum((1, 2))[:, None]
            reduced = [np.abs(p.sum(1)), p.sum(1) ** 2, np.abs(p).sum(1), (p**2).sum(1), share, (g**2).sum(1)]
            columns |= {f"{objective}_{n}_sum": r.sum(0) for n, r in zip(REDUCTIONS, reduced, strict=True)}
        return columns

    def layer(self, index: int = 0) -> Layer:
        return Layer(index, self.statistics(), Weights(vars(self).__getitem__))

    def norm(self, c: int) -> float:
        """||a_c|| over all tokens."""
        return math.sqrt(sum(self.a[x, t, c] ** 2 for x in range(SAMPLES) for t in range(TOKENS)))


def wanda(e: Example, c: int) -> float:
    return sum(abs(e.down[i, c]) for i in range(HIDDEN)) / HIDDEN * e.norm(c)


def magnitude(e: Example, c: int) -> float:
    return sum(math.sqrt(sum(float(w) ** 2 for w in row)) for row in (e.gate[c], e.up[c], e.down[:, c]))


def maw(e: Example, c: int) -> float:
    return sum(max(map(float, row)) + abs(min(map(float, row))) for row in (e.gate[c], e.up[c]))


def minitron(e: Example, c: int) -> float:
    means = [sum(abs(e.a[x, t, c]) for t in range(TOKENS)) / TOKENS for x in range(SAMPLES)]
    return math.sqrt(sum(mean**2 for mean in means))


def flap(e: Example, c: int) -> float:
    return np.var(e.a[:, :, c], ddof=1) * sum(float(e.down[i, c]) ** 2 for i in range(HIDDEN))


def cfsp(e: Example, c: int) -> float:
    """The layer's neurons share out each hidden dimension."""
    total = 0.0
    for i in range(HIDDEN):
        outgoing = [abs(e.down[i, j]) * e.norm(j) for j in range(NEURONS)]
        total += outgoing[c] / sum(outgoing)
        total += abs(e.up[c, i]) / sum(abs(e.up[j, i]) for j in range(NEURONS))
        total += abs(e.gate[c, i]) / sum(abs(e.gate[j, i]) for j in range(NEURONS))
    return total / HIDDEN * e.norm(c)


def cfsp_released(e: Example, c: int) -> float:
    """wyxscir/CFSP: every sum runs over the same hidden dimensions as the mean."""
    outgoing = [abs(float(e.down[i, c])) * e.norm(c) for i in range(HIDDEN)]
    up, gate = ([abs(float(w)) for w in matrix[c]] for matrix in (e.up, e.gate))
    terms = [outgoing[i] / sum(outgoing) + up[i] / sum(up) + gate[i] / sum(gate) for i in range(HIDDEN)]
    return sum(terms) / HIDDEN * e.norm(c)


def first_order(e: Example, c: int, objective: str, reduction: str) -> float:
    total = 0.0
    for x in range(SAMPLES):
        p = [[e.a[x, t, j] * e.g[objective][x, t, j] for j in range(NEURONS)] for t in range(TOKENS)]
        own = [row[c] for row in p]
        total += {
            "net_abs": abs(sum(own)),
            "net_sq": sum(own) ** 2,
            "abs": sum(abs(v) for v in own),
            "sq": sum(v**2 for v in own),
            "share": sum(abs(v) for v in own) / sum(abs(v) for row in p for v in row),
            "grad_sq": sum(e.g[objective][x, t, c] ** 2 for t in range(TOKENS)),
        }["grad_sq" if reduction == "grad_root" else reduction]
    return math.sqrt(total / SAMPLES) if reduction == "grad_root" else total / SAMPLES


FORMULAS = {"wanda": wanda, "magnitude": magnitude, "maw": maw, "minitron": minitron, "fluctuation": flap}
FORMULAS |= {"cfsp": cfsp, "cfsp_as_code": cfsp_released}
TESTED_APART = {
    "random",
    "utility",
    "parameter_taylor",
    "obs",
    "leverage",
    "rounds",
    "gisp",
    "reap",
    "frequency",
    "fisher",
}


def test_every_score_is_tested():
    files = {path.stem for path in Path(scores.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == {*FORMULAS, *TESTED_APART}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("seed", [0, 1])
def test_score_is_its_formula(name, seed):
    example = Example(seed)
    found = importlib.import_module(f"pruning.methods.scores.{name}").score(example.layer())
    assert found.dtype == np.float64
    assert found == pytest.approx([FORMULAS[name](example, c) for c in range(NEURONS)], rel=1e-6)


def test_maw_is_that_of_optipfair():
    """What `compute_neuron_pair_importance_maw` of optipfair 0.4.2 gives for these; a row of one sign counts its least
    weight as well, so it is no maximum of absolute values."""
    gate = np.array([[0.5, -1.25, 0.25], [2, 1, 0.75], [-3, -0.5, -1]], dtype=np.float32)
    up = np.array([[1, -2, 0.5], [0, 0, 0], [-0.25, -4, -1]], dtype=np.float32)
    layer = Layer(0, {}, Weights({"gate": gate, "up": up}.__getitem__))
    assert maw_score.score(layer).tolist() == [4.75, 2.75, 6.25]


@pytest.mark.parametrize("options", [(), *product(OBJECTIVES, (*REDUCTIONS, "grad_root"))])
def test_utility_is_its_formula(options):
    """By default the kinetic one."""
    example = Example()
    found = utility.score(example.layer(), *options)
    wanted = options or ("energy", "abs")
    assert found == pytest.approx([first_order(example, c, *wanted) for c in range(NEURONS)])


@pytest.mark.parametrize("options", [{"objective": "loss"}, {"reduction": "max"}])
def test_utility_refuses_what_it_does_not_know(options):
    with pytest.raises(ValueError, match=r"objective must be one of .*energy.* and reduction one of .*net_abs"):
        utility.score(Example().layer(), **options)


@pytest.mark.parametrize("constant", [0.1, 2.3, 3.7, 7.7])
def test_fluctuation_of_a_constant_neuron_is_zero_not_negative(constant):
    example = Example()
    example.a[:, :, 2] = constant  # sum a^2 - n mean^2 is below zero for some, by rounding
    found = fluctuation.score(example.layer())
    assert 0 <= found[2] < 1e-10


@pytest.mark.parametrize("name", [*FORMULAS, "utility"])
def test_a_silent_neuron_in_a_silent_layer_scores_no_nan(name):
    example = Example()
    example.a[:] = 0
    with np.errstate(invalid="ignore"):  # shares of nothing; the calibration pass writes 0
        statistics = {column: np.nan_to_num(values) for column, values in example.statistics().items()}
    layer = Layer(0, statistics, Weights(vars(example).__getitem__))
    found = importlib.import_module(f"pruning.methods.scores.{name}").score(layer)
    assert np.isfinite(found).all()
    assert name in ("magnitude", "maw") or not found.any()


def test_random_is_a_function_of_seed_and_layer_and_not_of_the_data():
    drawn = {(seed, index): random.score(Example().layer(index), seed=seed) for seed in (1, 2) for index in range(3)}
    assert len({tuple(values) for values in drawn.values()}) == 6
    for (seed, index), values in drawn.items():
        assert values.tolist() == random.score(Example(1).layer(index), seed=seed).tolist()
        assert len(values) == NEURONS and values.min() >= 0 and values.max() < 1


def test_weights_are_loaded_at_most_once_and_only_when_asked_for():
    example, reads = Example(), []

    def read(projection: str):
        reads.append(projection)
        return vars(example)[projection]

    layer = Layer(0, example.statistics(), Weights(read))
    for name in ("utility", "minitron", "random"):
        importlib.import_module(f"pruning.methods.scores.{name}").score(layer)
    assert reads == []
    importlib.import_module("pruning.methods.scores.wanda").score(layer)
    assert reads == ["down"]
    for name in ("wanda", "cfsp", "magnitude"):
        importlib.import_module(f"pruning.methods.scores.{name}").score(layer)
    assert sorted(reads) == ["down", "gate", "up"]


def test_normalisations_by_hand():
    values = np.array([1.0, 2.0, 5.0])
    assert layer_sum(values) == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    assert layer_mean(values) == pytest.approx([3 / 8, 6 / 8, 15 / 8])
    assert layer_l2(values) == pytest.approx(values / math.sqrt(30))
    assert zscore(values) == pytest.approx((values - 8 / 3) / math.sqrt(13 / 3))  # (25 + 4 + 49) / 9 / 2
    assert NORMALISATIONS["none"](values) is values


@pytest.mark.parametrize("name", NORMALISATIONS)
@given(scores=st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=2, max_size=30))
def test_normalisation_keeps_the_order(name, scores):
    """So that under uniform allocation none of them changes a mask."""
    values = np.array(scores)
    normalised = NORMALISATIONS[name](values)
    order = np.argsort(values, kind="stable")
    assert np.isfinite(normalised).all()
    assert (np.diff(normalised[order]) >= 0).all()
    for i in range(len(values) - 1):
        if values[order[i + 1]] > values[order[i]] + 1e-9 * values.max():
            assert normalised[order[i + 1]] > normalised[order[i]]


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalising_a_silent_layer_is_no_nan_and_but_for_none_its_scale_is_forgotten(name):
    assert not NORMALISATIONS[name](np.zeros(4)).any()
    values = np.array([1.0, 2.0, 5.0])
    assert name == "none" or NORMALISATIONS[name](values * 1e-9) == pytest.approx(NORMALISATIONS[name](values))
    assert name != "zscore" or (NORMALISATIONS[name](np.full(1000, 0.1)) == 0).all()  # a constant layer


def test_options_of_scores_have_defaults():
    """A method may name a score without options."""
    for name in (*FORMULAS, *TESTED_APART):
        function = importlib.import_module(f"pruning.methods.scores.{name}").score
        _, *options = inspect.signature(function).parameters.values()
        assert all(option.default is not inspect.Parameter.empty for option in options)


@pytest.mark.parametrize(
    ("method", "objective"),
    [
        ({"score": "utility"}, "energy"),
        ({"score": "utility", "options": {"objective": "ce"}}, "ce"),
        ({"score": "fisher"}, "ce"),
        ({"score": "fisher", "options": {"objective": "energy"}}, "energy"),
        ({"score": "wanda"}, None),
    ],
)
def test_the_gradient_that_a_method_needs_is_the_one_its_score_takes(method, objective):
    """What calibrations are checked for before any job, and what `prune` measures."""
    assert Method(**method).objective == objective
