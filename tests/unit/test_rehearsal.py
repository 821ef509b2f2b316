"""What a rehearsal without data counts is what the same code takes with data; what would not fit is refused."""

import importlib
import json
import re
import shutil
from functools import partial
from pathlib import Path

import measure
import pandas as pd
import pytest
import torch
import yaml

import tiny
from pruning.calibration import footprint, gradients, output_gradients, prepare, second_moments
from pruning.core import artifacts, layer_files, memory
from pruning.core.errors import InputError
from pruning.evaluation import recovery
from pruning.evaluation.kinds import perplexity
from pruning.methods import rounds, training
from pruning.models import families, head, loading, rehearsal
from pruning.models.loading import load
from workspace import ROOT

CALIBRATION = {
    "samples": 5,
    "micro_batch": 5,
    "sequence_length": 64,
    "objectives": ["energy", "ce"],
    "gradient_checkpointing": False,
}
LORA = {
    **{"rank": 4, "alpha": 8, "seed": 0, "targets": ["q_proj", "down_proj"], "batch_size": 4, "sequence_length": 64},
    **{"micro_batch": None, "gradient_checkpointing": False},
}
CHECKPOINT, MICRO, PROBED = "gradient_checkpointing: true` in `{}`", "micro_batch: 1` in `{}`", "probed: 16` in `{}`"
TABLE = [  # stage, settings, what helps where memory is short
    (gradients.STAGE, CALIBRATION, [CHECKPOINT, MICRO]),
    (second_moments.STAGE, CALIBRATION, [MICRO]),
    (output_gradients.STAGE, CALIBRATION, [CHECKPOINT, MICRO]),
    (footprint.REFIT, CALIBRATION, [MICRO]),
    (footprint.ROUNDS, CALIBRATION, [MICRO]),
    (footprint.SENSITIVITY, {**CALIBRATION, "probed": 64}, [MICRO, PROBED]),
    (perplexity.STAGE, {"batch_size": 3, "seqlen": 100}, ["batch_size: 1` in `{}`"]),
    (recovery.STAGE, LORA, [CHECKPOINT, MICRO]),
]
MEANT = {stage.name: (stage, settings) for stage, settings, _ in TABLE}
HELPS = {stage.name: {means.format(stage.section) for means in helps} for stage, _, helps in TABLE}
CHANGES = [
    *((name, {"gradient_checkpointing": True}) for name in ("calibration", "output_gradients", "recovery")),
    *((name, {"structure": "kv_groups"}) for name in ("second_moments", "output_gradients")),
    *(("sensitivity", {"probed": 9, "search": "layers"}), ("recovery", {"micro_batch": 1})),
    ("recovery", {"objective": "distillation", "tokens": 999}),
    ("perplexity", {"divergence": True}),
    ("refit", {"training": {"epochs": 1, "rates": [1e-3]}}),
]
CASES = {
    **{name: partial(stage.taken, settings=settings) for name, (stage, settings) in MEANT.items()},
    **{f"{name}, {new}": partial(MEANT[name][0].taken, settings=MEANT[name][1] | new) for name, new in CHANGES},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.save(
        tiny.qwen2(layers=3, hidden_size=64, intermediate_size=512), tmp_path_factory.mktemp("m") / "model"
    )


def without_data(folder: Path, case: str) -> rehearsal.Taken:
    return CASES[case](rehearsal.network(folder, "float32"))


@pytest.mark.parametrize("case", CASES)
def test_what_is_taken_without_data_is_taken_with_data(folder, case, monkeypatch):
    monkeypatch.setattr(head, "IN_CACHE", 10**12)  # all at once, as on a GPU; a CPU takes less
    predicted = without_data(folder, case)
    real = CASES[case](load(folder, "float32", "cpu")[0])
    assert predicted.bytes == pytest.approx(real.bytes, rel=0.02) and predicted.bytes > 100_000
    assert predicted.spared == real.spared


def test_no_layers_moments_wait_for_the_next_layers(folder, tmp_path):
    network, batches = load(folder, "float32", "cpu")[0], prepare.blank(CALIBRATION)
    layers = second_moments.second_moments(network, batches)
    path = tmp_path / "s.json"
    held = rehearsal.rehearsed(network, lambda: layer_files.write(path, "second_moments", {}, layers, {}))
    assert held.bytes == pytest.approx(second_moments.taken(network, CALIBRATION).bytes, rel=0.02)
    held = rehearsal.rehearsed(network, lambda: list(rounds.losses(network, batches, 0)))
    assert held.bytes <= 1.02 * footprint.ROUNDS.taken(network, CALIBRATION).bytes


@pytest.mark.parametrize(("dtype", "samples"), [("float32", 32), ("bfloat16", 32), ("bfloat16", 1)])
def test_training_a_layer_takes_what_is_counted(folder, dtype, samples):
    """Of a model of `dtype` that has data; the layer's own float32 weights are new only where it is narrower."""
    network = load(folder, dtype, "cpu")[0]
    settings = CALIBRATION | {"micro_batch": samples, "training": {"epochs": 2, "rates": [1e-3]}}
    counted = footprint._training(network, settings).bytes
    layer, [batch] = families.decoder_layers(network)[1], prepare.blank(settings)
    whole = prepare.Batch(batch.samples * 5, batch.ids, batch.counted, batch.objective)  # none is held out
    hidden = torch.randn(*batch.ids.shape, 64, dtype=getattr(torch, dtype))
    piece = training.Piece(whole, torch.arange(samples), hidden, 2 * hidden, torch.ones(batch.ids.shape))
    held = rehearsal.rehearsed(network, lambda: training.trained(network, layer, [piece], [piece], 2, [1e-3], 0))
    assert (0.9 if dtype == "float32" else 0.5) * counted < held.bytes < 1.02 * counted


def test_memory_is_counted_once_and_only_while_it_is_alive():
    network = torch.nn.Linear(10, 10, bias=False, device="meta")

    with torch.no_grad(), rehearsal.Rehearsal(network) as counted:
        first = torch.empty(1000, device="meta")
        second = first.view(10, 100)[3]  # the same memory
        third = torch.empty(500, device="meta")
        away = first.cpu()  # a GPU's memory does not hold it
        del first, second, third, away
        output = network(torch.empty(2, 10, device="meta"))
    assert (counted.peak, counted.now) == (4 * 1500, 4 * output.numel())


def test_less_is_held_with_the_means_to_hold_less(folder):
    def held(case: str, **changes) -> int:
        return without_data(folder, f"{case}, {changes}" if changes else case).bytes

    assert held("calibration", gradient_checkpointing=True) < held("calibration")
    assert held("second_moments", structure="kv_groups") < held("second_moments")  # of 64 channels, not of 512 neurons
    assert held("recovery", micro_batch=1) < 0.5 * held("recovery")
    assert held("perplexity") < held("perplexity", divergence=True)


def test_the_dense_models_head_is_counted(folder):
    """Of a text of two tokens, beside which all else is little."""
    network, short = rehearsal.network(folder, "float32"), {"batch_size": 1, "seqlen": 2}
    taken = [perplexity.taken(network, {**short, "divergence": asked}).bytes for asked in (False, True)]
    head_bytes = network.get_output_embeddings().weight.nbytes
    assert head_bytes < taken[1] - taken[0] < 1.2 * head_bytes


def test_what_a_teacher_leaves_is_counted(folder):
    """Its head, and what that gets of all tokens, which stays with the CPU."""
    short = {**LORA, "batch_size": 1, "sequence_length": 2}
    plain, few, many = (
        recovery.taken(rehearsal.network(folder, "float32"), short | told)
        for told in ({}, *({"objective": "distillation", "tokens": tokens} for tokens in (0, 1000)))
    )
    assert 4 * 257 * 64 < few.bytes - plain.bytes < 1.2 * 4 * 257 * 64
    assert many.bytes - few.bytes == many.spared == 1000 * 64 * 4 and few.spared == plain.spared == 0


# Gigabytes beside the weights, as benchmarks/memory.py found them resident in a process (benchmarks/README.md)
RESIDENT = {"calibration": 1.09, "output_gradients": 1.09, "second_moments": 7.79, "recovery": 1.82}


@pytest.mark.parametrize("stage", RESIDENT)
def test_a_layer_of_the_papers_model_takes_what_was_measured(tmp_path, stage):
    """A layer of Qwen2.5-7B's shape, one row of 2,048 tokens in float32; libraries and the allocator keep the rest."""
    raw = json.loads((ROOT / "resources/architectures/qwen2_5-7b/config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "num_hidden_layers": 1}))
    own = {**CALIBRATION, "micro_batch": 1, "batch_size": 1, "sequence_length": 2048}
    own |= {"rank": 16, "alpha": 32, "seed": 0, "targets": ["q_proj", "v_proj", "down_proj"]}
    own |= {"micro_batch": None} if stage == "recovery" else {}
    predicted = MEANT[stage][0].taken(rehearsal.network(tmp_path, "float32"), own).bytes / 1e9
    assert 0.85 * RESIDENT[stage] < predicted < RESIDENT[stage]


def test_the_papers_model_fits_a_card_of_24_gb():
    """Every stage that takes a GPU, with the settings of the config, less half a gigabyte for CUDA itself."""
    config = yaml.safe_load((ROOT / "config/qwen2_5-7b.yaml").read_text())
    network = rehearsal.network(ROOT / "resources/architectures/qwen2_5-7b", "bfloat16")
    left = 24 * 2**30 - 0.5e9 - network.get_memory_footprint(return_buffers=False)
    calibration, tuning = config["calibrations"]["gsm8k-s0"], config["tunings"]["gsm8k-150"]
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    for taken in (
        gradients.taken(network, calibration),
        perplexity.taken(network, {"batch_size": 4, "seqlen": 2048}),
        second_moments.taken(network, calibration),
        recovery.taken(network, {"micro_batch": None, "seed": 0, "targets": targets, **tuning}),
    ):
        assert 0 < taken.bytes < left


# what is refused before it starts


def needed(folder: Path, stage: str, **changes) -> tuple[int, rehearsal.Taken]:
    """Bytes of the weights, and what the work takes."""
    network, (meant, settings) = rehearsal.network(folder, "float32"), MEANT[stage]
    return network.get_memory_footprint(return_buffers=False), meant.taken(network, {**settings, **changes})


def must_fit(folder: Path, stage: str) -> None:
    meant, settings = MEANT[stage]
    rehearsal.must_fit(folder, "float32", meant, settings)


@pytest.mark.parametrize("stage", MEANT)
def test_what_would_not_fit_is_refused_and_what_helps_is_named(folder, stage, monkeypatch):
    weights, beside = needed(folder, stage)
    total = weights + beside.bytes
    monkeypatch.setattr(memory, "available", lambda: total + 1)
    must_fit(folder, stage)
    monkeypatch.setattr(memory, "available", lambda: total - 1)
    with pytest.raises(InputError) as error:
        must_fit(folder, stage)
    start = f"{stage}: model {folder} needs {total / 1e9:.2f} GB in float32 (weights {weights / 1e9:.2f}, activations"
    assert str(error.value).startswith(start)
    helps = {means.split(" (")[0] for means in re.findall(r"set `(.*? \([0-9.]+) GB\)", str(error.value))}
    assert helps == HELPS[stage]
    end = "run fewer jobs at once (raise the model's memory_gb), or use a machine with more memory"
    assert str(error.value).endswith(end)


SOLVING = 8 * (3 * 512**2 + 6 * 512 * 64)  # three [n, n] and six [d, n] in float64
SUMS = 2 * 4 * 512**2
STATES = 5 * 64 * 64 * 64 * 4  # of 64 samples of 64 tokens: before three layers, after the last, wanted
TOKENS = 5 * 64 * 4 * (512 + 5 * 64)  # inputs of down_proj, and five streams
SPARED = {"second_moments": SUMS, "refit": SUMS + TOKENS + SOLVING, "sensitivity": STATES + SOLVING, "rounds": SUMS}


@pytest.mark.parametrize("stage", MEANT)
def test_what_stays_with_the_cpu_or_is_narrower_is_not_asked_of_gpus(folder, monkeypatch, stage):
    weights, beside = needed(folder, stage)
    assert beside.spared == SPARED.get(stage, 0)
    on_gpus = weights + beside.bytes - beside.spared
    free = [on_gpus - on_gpus // 3 + 1, on_gpus // 3]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[card], 10**12))
    # else an optimiser's step starts CUDA, where torch is built for it and there is no GPU
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    must_fit(folder, stage)
    free[0] -= 10
    with pytest.raises(InputError, match=rf"{stage}: .* GB are free on 2 GPU\(s\): set .* the model's `gpus` to 2 or"):
        must_fit(folder, stage)


def test_a_small_model_is_not_rehearsed(folder, monkeypatch):
    weights, _ = needed(folder, "calibration")
    monkeypatch.setattr(rehearsal, "network", None)
    monkeypatch.setattr(memory, "available", lambda: 101 * weights)
    must_fit(folder, "calibration")
    monkeypatch.setattr(memory, "available", lambda: 99 * weights)
    with pytest.raises(TypeError):
        must_fit(folder, "calibration")


TEXT = ["one", "twenty-two and more", "3", "forty", "5 5"]  # the longest has 19 tokens, and an end token
SETTINGS = {
    **{"dtype": "float32", "prompt": "{text}", "completion": "!", "packing": "document", "token_mask": "all"},
    **{"samples": 5, "shards": 1, "layer": 0, "tokens": 4, "steps": 1, "learning_rate": 0.1, "checkpoint_every": 9},
}
PERPLEXITY = {"kind": "perplexity", "text": "{text}", "joiner": "-", "batch_size": 3, "seqlen": 8, "tokens": None}
ASKING = {  # script, or what scripts/measure.py measures -> stage that it asks for
    **{"gradients": "calibration", "paper/observe": "calibration", "recover": "recovery"},
    **{"evaluate": "perplexity", "hidden_states": "perplexity"},
    **{name: name for name in ("second_moments", "output_gradients", "refit", "rounds", "sensitivity")},
}


def run(script: str, folder: Path, place: Path, teacher: Path | None) -> None:
    """Run a stage on the files in `place`. teacher: of a recovery; of an evaluation, that it compares."""
    data, own, model = place / "data.parquet", {**SETTINGS, **CALIBRATION, "seed": 0}, place / "model"
    searched = {**own, "search": "greedy", "probed": 64, "min_keep": 0.1}
    asked = {"tasks": {"text": {**PERPLEXITY, "dtype": "float32", "divergence": teacher is not None}}}
    variant = {"model": model, "manifest": model / "manifest.json"}
    arguments = {
        "recover": ({**SETTINGS, **LORA}, folder, data, data, place / "adapter", teacher),
        "evaluate": (asked, variant, [f"text={data}"], place, [f"text={place}/states.json"]),
        "hidden_states": ({**PERPLEXITY, "dtype": "float32"}, folder, data, place / "states.json"),
    }
    fitted = {
        "refit": (own | {"scheme": "sequential"}, folder, data, [f"mask={place}/mask.parquet"]),
        "rounds": (own | {"rounds": [50]}, folder, data),
        "sensitivity": (searched, model, data, [f"scores={place}/scores.parquet"]),
    }
    outputs = [place / name for name in ("first.parquet", "second.parquet")]
    if script in arguments:
        getattr(importlib.import_module(script), script)(*arguments[script])
    elif script in fitted:
        measure.measure(f"methods/{script}", outputs, *fitted[script])
    else:
        measure.measure(script, outputs, own, folder, data)


@pytest.mark.parametrize(
    "script, distilled", [*((name, False) for name in ASKING), ("recover", True), ("evaluate", True)]
)
def test_stages_ask_it_before_they_load_and_for_the_lengths_of_their_texts(
    folder, tmp_path, monkeypatch, script, distilled
):
    artifacts.write_parquet(tmp_path / "data.parquet", pd.DataFrame({"text": TEXT}), "dataset", {})
    for name, column, value in (("mask", "keep", lambda unit: unit < 100), ("scores", "score", lambda unit: 1.0)):
        rows = pd.DataFrame([(layer, unit, value(unit)) for layer in range(3) for unit in range(512)])
        rows = rows.set_axis(["layer", "unit", column], axis=1)
        artifacts.write_parquet(tmp_path / f"{name}.parquet", rows, name, {})
    tiny.record(shutil.copytree(folder, tmp_path / "model"))
    stage, teacher = ASKING[script], folder if distilled else None
    lengths = {"seqlen": 8, "divergence": distilled} if stage == "perplexity" else {"sequence_length": 21}
    if distilled and script == "recover":
        learnt = {*recovery.drawn(5, 0, LORA["batch_size"], 0)}
        lengths |= {"objective": "distillation", "tokens": sum(len(TEXT[number]) + 2 for number in learnt)}
    weights, beside = needed(folder, stage, **lengths)
    total = weights + beside.bytes + 1

    def loaded(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(loading, "load", loaded)
    monkeypatch.setattr(memory, "available", lambda: total)
    with pytest.raises(InterruptedError):
        run(script, folder, tmp_path, teacher)
    monkeypatch.setattr(memory, "available", lambda: total - 2)
    with pytest.raises(InputError, match=f"{stage}: model .* needs "):
        run(script, folder, tmp_path, teacher)
