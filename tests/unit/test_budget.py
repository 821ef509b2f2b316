"""Budgets: what is counted is what compact models hold, and the least sparsity is found; times by a false clock."""

import json
from functools import cache
from itertools import product

import budget as stage
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import tiny
from pruning.config.budgets import Amount, Budget, amount
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import budget
from pruning.methods.compact import Pruning
from pruning.models.checkpoint import Checkpoint

METHOD = {"allocate": "uniform", "options": {}, "min_keep": 0.01, "round_to": 1}
METHOD |= {"compensate": "none", "export": "exact"}
CLOCK = {"dtype": "float32", "prompt_tokens": 8, "decode_tokens": 4, "rounds": 5, "warmup": 1}
CLOCK |= {"confidence": 0.95, "resamples": 200, "seed": 0}


FILES = ("scores.parquet", "base/manifest.json")


def asked(kind: str, text: str, **method) -> dict:
    found = amount(kind, text)
    return {**METHOD, **method, "kind": kind, "text": text, "value": found.value, "share": found.share, **CLOCK}


@pytest.fixture
def place(tmp_path):
    """A model of two layers with scores and what allocations look at, as the workflow lays them."""
    return laid(tmp_path, tiny.qwen2())


def laid(folder, model):
    checkpoint = Checkpoint(tiny.fetched(folder / "base", model))
    units = [(layer, unit) for layer, width in enumerate(checkpoint.widths) for unit in range(width)]
    frame = pd.DataFrame(units, columns=["layer", "unit"])
    frame["score"] = np.random.default_rng(0).lognormal(size=len(frame))
    artifacts.write_parquet(folder / "scores.parquet", frame, "scores", {})
    return folder


def found(place, settings: dict) -> dict:
    stage.budget(settings, *(place / name for name in FILES), place / "budget.json")
    return json.loads((place / "budget.json").read_text())


def made(place, settings: dict, sparsity: int, folder) -> dict[str, torch.Tensor]:
    """The tensors of the very model: masked by scripts/mask.py, compacted and read."""
    from mask import mask

    path, own = place / f"{sparsity}.parquet", {key: settings[key] for key in list(METHOD)[:4]}
    mask(own, *(place / name for name in FILES), sparsity, path)
    base = Checkpoint(place / "base")
    statistics = tiny.write_statistics(place / "statistics.parquet", base.widths)
    folder.mkdir()
    pruning = Pruning.read(base.directory, path, settings["compensate"], statistics)
    pruning.write(folder, settings["export"])
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


COUNT = {
    "parameters": lambda tensors: sum(tensor.numel() for tensor in tensors.values()),
    "bytes": lambda tensors: sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
}

# What is counted


def mixed():
    """Norms stay in float32 where the rest is bfloat16."""
    model = tiny.qwen2().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = parameter.data.float()
    return model


MODELS = {"qwen2": tiny.qwen2, "llama": tiny.llama, "biased": lambda: tiny.llama(mlp_bias=True), "mixed": mixed}
MODELS["phi3"] = lambda: tiny.of_family("phi3")
METHODS = {
    "uniform": {},
    "global": {"allocate": "global"},
    "rounded": {"allocate": "global", "round_to": 8},
    "padded": {"allocate": "global", "export": "pad"},
    "flap": {"allocate": "global", "compensate": "bias"},
    "kept": {"min_keep": 0.4},
}


@pytest.fixture(scope="module")
def place_of(tmp_path_factory):
    """Of a model's name, made once: masks and answers overwrite those before."""
    return cache(lambda model: laid(tmp_path_factory.mktemp(model), MODELS[model]()))


@pytest.mark.parametrize("kind", COUNT)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_counted_is_what_the_very_model_holds(place_of, tmp_path, model, method, kind):
    place, settings = place_of(model), asked(kind, "90%", **METHODS[method])
    answer = found(place, settings)
    whole = {n: t for file in (place / "base").glob("*.safetensors") for n, t in load_file(file).items()}
    assert answer["dense"] == COUNT[kind](whole) and answer["target"] == pytest.approx(0.9 * answer["dense"])
    for number, sparsity in enumerate({answer["sparsity"], answer["sparsity"] - 1, 60} - {0}):
        tried = next(each for each in answer["tried"] if each["sparsity"] == sparsity)
        tensors = made(place, settings, sparsity, tmp_path / f"made{number}")
        assert tried["value"] == tried["low"] == tried["high"] == COUNT[kind](tensors), sparsity
        assert tried["meets"] == (tried["value"] <= answer["target"])
    assert answer["cost"]["value"] <= answer["target"]


@pytest.mark.parametrize("method", ["uniform", "padded", "rounded"])
@pytest.mark.parametrize("text", ["97%", "85%", "70%", "20100", "0.0183M"])
def test_the_sparsity_is_the_least_of_all(place, method, text):
    answer = found(place, asked("parameters", text, **METHODS[method]))
    every = [each["value"] for each in answer["tried"]]
    assert [each["sparsity"] for each in answer["tried"]] == list(range(1, 100))
    by_hand = next(number for number, value in enumerate(every, 1) if value <= answer["target"])
    assert answer["sparsity"] == by_hand
    assert answer["widths"] == ([48 - (48 * by_hand + 50) // 100] * 2 if method == "uniform" else answer["widths"])


def test_an_amount_that_is_met_exactly_is_met(place):
    value = found(place, asked("parameters", "70%"))["cost"]["value"]
    assert found(place, asked("parameters", str(value)))["cost"]["value"] == value
    assert found(place, asked("parameters", str(value - 1)))["cost"]["value"] < value


@pytest.mark.parametrize("kind", COUNT)
def test_less_than_min_keep_allows_is_an_error_that_says_the_least(place, tmp_path, kind):
    settings = asked(kind, "1", min_keep=0.25)
    least = COUNT[kind](made(place, settings, 99, tmp_path / "least"))
    with pytest.raises(InputError, match=rf"{kind}: 1 cannot be reached: the least is {least}, at .*0.25"):
        found(place, settings)
    assert found(place, asked(kind, str(least), min_keep=0.25))["cost"]["value"] == least


def with_groups(place):
    """Scores of key-value groups beside those of neurons."""
    rows = pd.read_parquet(place / "scores.parquet").assign(structure="ffn", parameters=96)
    own = {"structure": "kv_groups", "parameters": 1568, "unit": [0, 1, 0, 1], "score": [9.0, 8, 70, 90]}
    groups = rows.iloc[[0, 1, -2, -1]].assign(**own)
    (place / "scores.parquet").unlink()
    artifacts.write_parquet(place / "scores.parquet", pd.concat([rows, groups], ignore_index=True), "scores", {})
    return place


@pytest.mark.parametrize("kind", COUNT)
def test_a_layer_that_was_dropped_before_has_no_neuron_to_count(tmp_path, kind):
    first = Checkpoint(tiny.save(tiny.llama(3), tmp_path / "first"))
    base = Checkpoint(tiny.written(Pruning(first, tiny.keeps(0, 48, 48)), tmp_path / "base"))
    tensors = load_file(base.directory / "model.safetensors")
    assert budget.Sizes(base, kind).cost({"ffn": [0, 48, 48]}).value == COUNT[kind](tensors)


@pytest.mark.parametrize("kind", COUNT)
@pytest.mark.parametrize("model", ["qwen2", "llama", "mixed"])
def test_groups_count_as_what_they_hold(tmp_path, model, kind):
    place, settings = with_groups(laid(tmp_path, MODELS[model]())), asked(kind, "85%", allocate="joint")
    answer = found(place, settings)
    assert answer["kv_groups"] in ([1, 2], [2, 1]) and sum(answer["widths"]) < 96
    for number, sparsity in enumerate((answer["sparsity"], 99)):
        tried = next(each for each in answer["tried"] if each["sparsity"] == sparsity)
        assert tried["value"] == COUNT[kind](made(place, settings, sparsity, tmp_path / f"made{number}")), sparsity


def test_a_dense_model_within_the_budget_leaves_nothing_to_prune(place):
    dense = Checkpoint(place / "base").parameters
    with pytest.raises(InputError, match=f"the dense model's {dense} meet 1B: nothing to prune"):
        found(place, asked("parameters", "1B"))
    assert found(place, asked("parameters", str(dense - 1)))["sparsity"] in (1, 2)
    assert not list(place.glob(".budget*"))


# Times, by a false clock


def clock(monkeypatch, seconds, noise=lambda *_: 1.0):
    """timing.measure that takes `seconds` of the number of FFN weights that a model has. Returns what it measured."""
    log = []

    def measure(models, settings):
        log.append({label: ffn_weights(model) for label, model in models.items()})
        rows = []
        for number, (label, model) in product(range(settings["rounds"]), models.items()):
            time = seconds(ffn_weights(model)) * noise(label, number, len(log))
            row = {"round": number, "variant": label, "prefill_s": time, "peak_memory_mb": np.nan}
            rows.append({**row, "decode_s": 10 * settings["decode_tokens"] * time})
        return pd.DataFrame(rows)

    monkeypatch.setattr("pruning.analysis.timing.measure", measure)
    return log


def ffn_weights(model) -> int:
    return sum(parameter.numel() for name, parameter in model.named_parameters() if ".mlp." in name)


def linear(weights: int) -> float:
    """2 ms, and a microsecond a weight."""
    return 0.002 + 1e-6 * weights


@pytest.mark.parametrize(("kind", "per"), [("prefill_ms", 1000), ("decode_ms", 10_000)])
def test_bisection_finds_what_a_scan_finds(place, monkeypatch, kind, per):
    log = clock(monkeypatch, linear)
    for text in ("95%", "70%", "33%", f"{per * linear(2 * 3 * 32 * 20):.9f}ms"):
        log.clear()
        answer = found(place, asked(kind, text))
        times = [per * linear(2 * 3 * 32 * max(1, 48 - (48 * s + 50) // 100)) for s in range(1, 100)]
        assert answer["dense"] == pytest.approx(per * linear(2 * 3 * 32 * 48))
        scan = next(s for s, time in enumerate(times, 1) if time <= answer["target"] * (1 + 1e-9))
        assert answer["sparsity"] == scan
        assert answer["cost"]["value"] == pytest.approx(times[scan - 1])
        assert len(log) <= 1 + 8 and log[0] == {"dense": 9216}  # the dense model's own time, then candidates
        for pair in log[1:]:
            assert list(pair) == ["dense", "pruned"] and pair["dense"] == 9216 > pair["pruned"]
        for each in answer["tried"]:
            assert each["value"] == pytest.approx(times[each["sparsity"] - 1])


def test_the_whole_interval_must_be_within_the_budget(place, monkeypatch):
    """Every second round takes a fifth longer: medians would allow less sparsity than the intervals."""
    clock(monkeypatch, linear)
    quiet = found(place, asked("prefill_ms", "60%"))
    clock(monkeypatch, linear, lambda label, number, _: 1 + 0.2 * (label == "pruned") * (number % 2))
    noisy = found(place, asked("prefill_ms", "60%"))
    assert noisy["sparsity"] > quiet["sparsity"]
    cost = noisy["cost"]
    assert cost["low"] <= cost["value"] < cost["high"] <= noisy["target"]
    assert not any(each["meets"] for each in noisy["tried"] if each["sparsity"] <= quiet["sparsity"])


def test_a_clock_too_noisy_to_tell_is_said(place, monkeypatch):
    clock(monkeypatch, linear, lambda label, number, _: 1 + 9 * (label == "pruned") * (number % 2))
    said = r"60% cannot be reached: .* and its interval reaches below: more `rounds`"
    with pytest.raises(InputError, match=said):
        found(place, asked("prefill_ms", "60%"))


def test_what_drifts_hits_both_and_changes_nothing(place, monkeypatch):
    """A machine that slows down by a tenth with every candidate."""
    clock(monkeypatch, linear)
    steady = found(place, asked("decode_ms", "70%"))
    clock(monkeypatch, linear, lambda _, number, call: 1.1**call)
    drifting = found(place, asked("decode_ms", "70%"))
    assert drifting["sparsity"] == steady["sparsity"]
    assert drifting["cost"]["value"] / drifting["dense"] == pytest.approx(steady["cost"]["value"] / steady["dense"])


def test_equal_widths_are_measured_once(place, monkeypatch):
    log = clock(monkeypatch, linear)
    answer = found(place, asked("prefill_ms", "60%", round_to=16))
    assert len({pair["pruned"] for pair in log[1:]}) == len(log) - 1 <= 5  # 16 and 16 neurons to 48 and 48
    assert answer["widths"] == [32, 16] and len(answer["tried"]) > len(log)


def test_a_bias_is_timed_with_the_model(place, monkeypatch):
    log = clock(monkeypatch, linear)
    found(place, asked("prefill_ms", "60%", compensate="bias"))
    assert all(pair["pruned"] % (3 * 32) == 2 * 32 for pair in log[1:])  # a bias of 32 in two layers


def test_times_that_no_pruning_meets_or_that_dense_meets(place, monkeypatch):
    log = clock(monkeypatch, linear)
    with pytest.raises(InputError, match="prefill_ms: 2 cannot be reached: the least is 2.192, at 9[0-9]%"):
        found(place, asked("prefill_ms", "2"))
    assert len(log) == 2  # of one candidate alone
    with pytest.raises(InputError, match="the dense model's 11.22 meet 12ms: nothing to prune"):
        found(place, asked("prefill_ms", "12ms"))


def test_groups_are_cut_of_what_is_timed(place, monkeypatch, tmp_path):
    """A model's time is here that of all its weights."""
    monkeypatch.setitem(globals(), "ffn_weights", lambda model: sum(p.numel() for p in model.parameters()))
    log, settings = clock(monkeypatch, linear), asked("prefill_ms", "70%", allocate="joint")
    answer = found(with_groups(place), settings)
    assert sum(answer["kv_groups"]) < 4
    written = COUNT["parameters"](made(place, settings, answer["sparsity"], tmp_path / "made"))
    assert written in [pair["pruned"] for pair in log[1:]]
    assert answer["cost"]["value"] == pytest.approx(1000 * linear(written))


def test_a_real_clock_says_how_it_measured(place):
    long = {"prompt_tokens": 256, "rounds": 9}
    answer = found(laid(place / "wide", tiny.qwen2(intermediate_size=6000)), asked("prefill_ms", "90%") | long)
    assert 1 <= answer["sparsity"] <= 99 and answer["cost"]["high"] <= answer["target"] < answer["dense"]
    assert {"device", "threads", "rounds", "prompt_tokens", "confidence"} <= answer.keys()
    with pytest.raises(InputError, match=r"prompt_tokens \+ decode_tokens: 600 \+ 1 is longer"):
        found(place, asked("prefill_ms", "90%") | {"prompt_tokens": 600})


@pytest.mark.parametrize(("first", "least"), [*((1, n) for n in range(1, 100)), (1, None), (0, 0), (0, 1), (0, 42)])
def test_scan_and_bisection_agree_where_costs_fall(first, least):
    """A scan tries all; of bisection seven candidates and the smallest model are measured."""
    tried = []

    def meets(sparsity: int) -> bool:
        tried.append(sparsity)
        return least is not None and sparsity >= least

    assert budget.least(meets, "prefill_ms", first) == least and len(tried) <= (1 if least is None else 8)
    tried.clear()
    assert budget.least(meets, "bytes", first) == least and tried == list(range(first, 100))


# What is asked


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("parameters", "1.2B", Amount(1.2e9, False)),
        ("parameters", "1e6", Amount(1e6, False)),
        ("bytes", "900 MB", Amount(9e8, False)),
        ("bytes", "1.5GiB", Amount(1.5 * 2**30, False)),
        ("prefill_ms", "12.5ms", Amount(12.5, False)),
        ("decode_ms", " 70% ", Amount(0.7, True)),
    ],
)
def test_amounts(kind, text, expected):
    assert amount(kind, text) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parameters": "1.2X"}, "parameters: unknown unit 'X' in '1.2X'; known: K, M, B, %, or none"),
        ({"bytes": "1B"}, "bytes: unknown unit 'B'"),
        ({"prefill_ms": "2s"}, "prefill_ms: unknown unit 's' in '2s'; known: ms, %, or none"),
        ({"parameters": "many"}, "parameters: 'many' is not an amount"),
        ({"parameters": float("nan")}, "parameters: 'nan' is not an amount"),
        ({"bytes": True}, "a number with a unit"),
        ({"bytes": 0}, "bytes: '0' is not above zero"),
        ({"bytes": "-3MB"}, "bytes: '-3MB' is not above zero"),
        ({"decode_ms": "100%"}, "nothing to prune"),
        ({"parameters": "1B", "bytes": 10}, "give one of parameters, bytes, prefill_ms, decode_ms, not parameters and"),
        ({}, "give one of parameters, bytes, prefill_ms, decode_ms, not none"),
    ],
)
def test_what_is_no_budget_is_said(given, message):
    with pytest.raises(ValueError, match="validation error") as error:
        Budget(**given)
    assert message in str(error.value)
