"""What a rehearsal without data counts is what the same code holds at once with data."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

import tiny
from pruning.analysis import footprint
from pruning.calibration import second_moments
from pruning.core import artifacts, layer_files, memory
from pruning.core.errors import InputError
from pruning.evaluation import generation
from pruning.methods import rounds
from pruning.models import loading, rehearsal
from pruning.models.loading import load
from workspace import ROOT

CALIBRATION = {"micro_batch": 5, "sequence_length": 64, "objectives": ["energy", "ce"], "gradient_checkpointing": False}
ATTENTION = {**CALIBRATION, "structure": "kv_groups"}
LORA = {
    **{"rank": 4, "alpha": 8, "seed": 0, "targets": ["q_proj", "down_proj"], "batch_size": 4, "sequence_length": 64},
    **{"micro_batch": None, "gradient_checkpointing": False},
}
STAGES = {
    "calibration": lambda network: footprint.calibration(network, CALIBRATION),
    "calibration, layers computed again": lambda network: footprint.calibration(
        network, {**CALIBRATION, "gradient_checkpointing": True}
    ),
    "second moments": lambda network: footprint.second_moments(network, CALIBRATION),
    "output gradients": lambda network: footprint.output_gradients(network, CALIBRATION),
    "second moments of attention": lambda network: footprint.second_moments(network, ATTENTION),
    "output gradients of attention": lambda network: footprint.output_gradients(network, ATTENTION),
    "refit": lambda network: footprint.refit(network, CALIBRATION),
    "rounds": lambda network: footprint.rounds(network, CALIBRATION),
    "sensitivity": lambda network: footprint.sensitivity(network, {**CALIBRATION, "probed": 9, "search": "layers"}),
    "perplexity": lambda network: footprint.perplexity(network, {"batch_size": 3, "seqlen": 100}),
    "answers": lambda network: footprint.answers(network, 4, 60, 30),
    "answers after a shared beginning": lambda network: footprint.answers(network, 4, 60, 30, shared=40),
    "options": lambda network: footprint.options(network, 4, 60, 30),
    "recovery": lambda network: footprint.lora(network, LORA),
    "recovery, a document at a time": lambda network: footprint.lora(network, {**LORA, "micro_batch": 1}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.save(
        tiny.qwen2(layers=3, hidden_size=64, intermediate_size=512), tmp_path_factory.mktemp("m") / "model"
    )


@pytest.mark.parametrize("stage", STAGES)
def test_memory_without_data_is_memory_with_data(folder, stage):
    predicted = STAGES[stage](rehearsal.model(folder, "float32"))
    assert predicted == pytest.approx(STAGES[stage](load(folder, "float32", "cpu")[0]), rel=0.02)
    assert predicted > 100_000


def test_no_layers_moments_wait_for_the_next_layers(folder, tmp_path):
    network, batches = load(folder, "float32", "cpu")[0], footprint._batches(CALIBRATION)
    layers = second_moments.second_moments(network, batches)
    held = rehearsal.peak(network, lambda: layer_files.write(tmp_path / "s", None, "second_moments", {}, layers, {}))
    assert held == pytest.approx(footprint.second_moments(network, CALIBRATION), rel=0.02)
    held = rehearsal.peak(network, lambda: list(rounds.losses(network, batches, 0)))
    assert held <= 1.02 * footprint.rounds(network, CALIBRATION)


@pytest.mark.parametrize("shared", [0, 40])
def test_answers_take_what_generation_takes(folder, shared):
    network, beginning = load(folder, "float32", "cpu")[0], list(range(100, 100 + shared))
    prompts = [beginning + [row] * (60 - shared) for row in range(1, 17)]

    def generate() -> None:
        prefix = generation.prefix_cache(network, beginning) if shared else None
        generation.greedy(network, prompts, 30, lambda *_: False, pad=0, prefix=prefix, shared=shared)

    predicted = footprint.answers(rehearsal.model(folder, "float32"), 16, 60, 30, shared)
    assert predicted == pytest.approx(rehearsal.peak(network, generate), rel=0.1)


def test_memory_is_counted_once_and_only_while_it_is_alive():
    network = torch.nn.Linear(10, 10, bias=False, device="meta")

    with torch.no_grad(), rehearsal.Rehearsal(network) as counted:
        first = torch.empty(1000, device="meta")
        second = first.view(10, 100)[3]  # the same memory
        third = torch.empty(500, device="meta")
        del first, second, third
        output = network(torch.empty(2, 10, device="meta"))
    assert (counted.peak, counted.now) == (4 * 1500, 4 * output.numel())


def test_less_is_held_with_the_means_to_hold_less(folder):
    def held(stage: str) -> int:
        return STAGES[stage](rehearsal.model(folder, "float32"))

    assert held("calibration, layers computed again") < held("calibration")
    assert held("second moments of attention") < held("second moments")  # of 64 channels, not of 512 neurons
    assert held("recovery, a document at a time") < 0.5 * held("recovery")


def test_the_papers_model_fits_a_card_of_24_gb():
    """Every stage that takes a GPU, with the settings of the config, less half a gigabyte for CUDA itself."""
    config = yaml.safe_load((ROOT / "config/qwen2_5-7b.yaml").read_text())
    network = rehearsal.model(ROOT / "resources/architectures/qwen2_5-7b", "bfloat16")
    left = 24 * 2**30 - 0.5e9 - sum(parameter.nbytes for parameter in network.parameters())
    calibration, tuning = config["calibrations"]["gsm8k-s0"], config["tunings"]["gsm8k-150"]
    assert footprint.calibration(network, calibration) < left
    assert footprint.perplexity(network, {"batch_size": 4, "seqlen": 2048}) < left
    assert footprint.options(network, 32, 1024, 256) < left
    assert footprint.answers(network, 256, 1058, 256, shared=936) < left  # GSM8K; 256, too
    assert footprint.second_moments(network, calibration) < left
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert footprint.lora(network, {"micro_batch": None, "seed": 0, "targets": targets, **tuning}) < left


# what is refused before it starts

MEANT = {
    "calibration": (footprint.calibration, CALIBRATION),
    "second_moments": (footprint.second_moments, CALIBRATION),
    "output_gradients": (footprint.output_gradients, CALIBRATION),
    "refit": (footprint.refit, CALIBRATION),
    "rounds": (footprint.rounds, CALIBRATION),
    "sensitivity": (footprint.sensitivity, {**CALIBRATION, "probed": 64, "search": "greedy"}),
    "perplexity": (footprint.perplexity, {"batch_size": 3, "seqlen": 100}),
    "recovery": (footprint.lora, LORA),
}
HELPS = {
    "calibration": {"gradient_checkpointing: true` in `calibrations`", "micro_batch: 1` in `calibrations`"},
    "second_moments": {"micro_batch: 1` in `calibrations`"},
    "output_gradients": {"gradient_checkpointing: true` in `calibrations`", "micro_batch: 1` in `calibrations`"},
    "refit": {"micro_batch: 1` in `calibrations`"},
    "rounds": {"micro_batch: 1` in `calibrations`"},
    "sensitivity": {"micro_batch: 1` in `calibrations`", "probed: 16` in `calibrations`"},
    "perplexity": {"batch_size: 1` in `tasks`"},
    "recovery": {"gradient_checkpointing: true` in `tunings`", "micro_batch: 1` in `tunings`"},
}


def needed(folder: Path, stage: str, **changes) -> tuple[int, int]:
    """Bytes of the weights and of the work."""
    network, (work, settings) = rehearsal.model(folder, "float32"), MEANT[stage]
    return sum(parameter.nbytes for parameter in network.parameters()), work(network, {**settings, **changes})


@pytest.mark.parametrize("stage", MEANT)
def test_what_would_not_fit_is_refused_and_what_helps_is_named(folder, stage, monkeypatch):
    weights, beside = needed(folder, stage)
    monkeypatch.setattr(memory, "available", lambda: weights + beside)
    loading.must_fit(folder, "float32", stage, MEANT[stage][1])
    monkeypatch.setattr(memory, "available", lambda: weights + beside - 1)
    with pytest.raises(InputError) as error:
        loading.must_fit(folder, "float32", stage, MEANT[stage][1])
    text, total = str(error.value), (weights + beside) / 1e9
    assert text.startswith(
        f"{stage}: model {folder} needs {total:.2f} GB in float32 (weights {weights / 1e9:.2f}, logits"
    )
    assert {means.split(" (")[0] for means in re.findall(r"set `(.*? \([0-9.]+) GB\)", text)} == HELPS[stage]
    assert text.endswith("run fewer jobs at once (raise the model's memory_gb), or use a machine with more memory")


def test_on_gpus_it_says_how_many_and_sums_are_narrower(folder, monkeypatch):
    weights, beside = needed(folder, "second_moments")
    on_gpu = weights + beside - 2 * 4 * 512**2
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    free = [on_gpu - on_gpu // 3, on_gpu // 3]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[card] + 1, 10**12))
    loading.must_fit(folder, "float32", "second_moments", CALIBRATION)
    free[0] -= 10
    with pytest.raises(
        InputError, match=r"GB are free on 2 GPU\(s\): set `micro_batch: 1` .* set the model's `gpus` to 2 or"
    ):
        loading.must_fit(folder, "float32", "second_moments", CALIBRATION)


@pytest.mark.parametrize("stage", ["refit", "sensitivity", "rounds"])
def test_what_stays_with_the_cpu_is_not_asked_of_a_gpu(folder, monkeypatch, stage):
    """Least squares of a layer: three [n, n] and six [d, n] in float64."""
    solving = 8 * (3 * 512**2 + 6 * 512 * 64)
    sums = 2 * 4 * 512**2
    states = 5 * 64 * 64 * 64 * 4  # of 64 samples of 64 tokens: before three layers, after the last, wanted
    ranked = needed(folder, "rounds")[1] - needed(folder, "second_moments")[1]  # in float64 on the device
    spared = {"refit": sums + solving, "sensitivity": states + solving, "rounds": sums}[stage]
    assert stage != "rounds" or ranked > solving
    weights, beside = needed(folder, stage)
    on_gpu = weights + beside - spared
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    free = [on_gpu]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (free[card], 10**12))
    loading.must_fit(folder, "float32", stage, MEANT[stage][1])
    free[0] -= 10
    with pytest.raises(InputError, match=f"{stage}: model"):
        loading.must_fit(folder, "float32", stage, MEANT[stage][1])


def test_logits_are_told_from_the_rest(folder):
    """With few neurons, the peak of three windows is where logits, a float32 copy and a softmax lie side by side."""
    wide = tiny.save(tiny.qwen2(), folder.parent / "narrow")
    peak = footprint.perplexity(rehearsal.model(wide, "float32"), {"batch_size": 3, "seqlen": 100})
    each = 3 * 99 * 257 * 4
    assert 2 * each <= peak.logits <= 4 * 3 * 100 * 257 * 4 and peak.logits < peak
    assert footprint.second_moments(rehearsal.model(wide, "float32"), CALIBRATION).logits == 0


def test_a_small_model_is_not_rehearsed(folder, monkeypatch):
    weights, _ = needed(folder, "calibration")
    monkeypatch.setattr(footprint, "must_fit", None)
    monkeypatch.setattr(memory, "available", lambda: 101 * weights)
    loading.must_fit(folder, "float32", "calibration", CALIBRATION)
    monkeypatch.setattr(memory, "available", lambda: 99 * weights)
    with pytest.raises(TypeError):
        loading.must_fit(folder, "float32", "calibration", CALIBRATION)


TEXT = ["one", "twenty-two and more", "3", "forty", "5 5"]  # the longest has 19 tokens, and an end token
SETTINGS = {
    **{"dtype": "float32", "prompt": "{text}", "completion": "!", "packing": "document", "token_mask": "all"},
    **{"samples": 5, "shards": 1, "layer": 0, "tokens": 4, "steps": 1, "learning_rate": 0.1, "checkpoint_every": 9},
}
PERPLEXITY = {"kind": "perplexity", "text": "{text}", "joiner": "-", "batch_size": 3, "seqlen": 8, "tokens": None}


def run(stage: str, folder: Path, place: Path) -> None:
    import calibrate
    import evaluate
    import observe
    import output_gradients
    import recover
    import refit
    import rounds
    import second_moments
    import sensitivity

    data, own = place / "data.parquet", {**SETTINGS, **CALIBRATION, "seed": 0}
    if stage == "calibration":
        calibrate.calibrate(own, folder, data, 0, place)
    elif stage == "observation":
        observe.observe(own, folder, data, place / "a.parquet", place / "b.parquet")
    elif stage == "second_moments":
        second_moments.second_moments(own, folder, data, place / "moments")
    elif stage == "output_gradients":
        output_gradients.output_gradients(own, folder, data, place / "gradients", place / "gradients.json")
    elif stage == "refit":
        refit.refit(
            {**own, "scheme": "sequential"}, folder, data, place / "mask.parquet", place / "r", place / "r.json"
        )
    elif stage == "rounds":
        rounds.rounds({**own, "rounds": [50]}, folder, data, place / "rounds.parquet")
    elif stage == "sensitivity":
        searched = {**own, "search": "greedy", "probed": 64, "min_keep": 0.1}
        sensitivity.sensitivity(
            searched, fetched(folder, place), data, place / "scores.parquet", place / "cuts.parquet"
        )
    elif stage in ("recovery", "distillation"):
        teacher = folder if stage == "distillation" else None
        recover.recover({**SETTINGS, **LORA}, folder, data, data, place / "adapter", teacher)
    else:
        model, task = fetched(folder, place), {**PERPLEXITY, "dtype": "float32"}
        evaluate.evaluate({"tasks": {"text": task}}, model, model / "manifest.json", [f"text={data}"], place)


def fetched(folder: Path, place: Path) -> Path:
    """The model with the manifest that fetching writes."""
    model, own = shutil.copytree(folder, place / "model", dirs_exist_ok=True), {"widths": [512] * 3, "parameters": 1}
    artifacts.write_json(
        model / "manifest.json", {"files": artifacts.directory_hashes(model), "original": own, **own}, "base", {}
    )
    return model


LENGTHS = {
    "calibration": ("calibration", {"sequence_length": 21}),
    "observation": ("calibration", {"sequence_length": 21}),
    "second_moments": ("second_moments", {"sequence_length": 21}),
    "output_gradients": ("output_gradients", {"sequence_length": 21}),
    "refit": ("refit", {"sequence_length": 21}),
    "rounds": ("rounds", {"sequence_length": 21}),
    "sensitivity": ("sensitivity", {"sequence_length": 21}),
    "recovery": ("recovery", {"sequence_length": 21}),
    "distillation": ("recovery", {"sequence_length": 21}),
    "perplexity": ("perplexity", {"seqlen": 8}),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_stages_ask_it_before_they_load_and_for_the_lengths_of_their_texts(folder, tmp_path, monkeypatch, name):
    stage, lengths = LENGTHS[name]
    artifacts.write_parquet(tmp_path / "data.parquet", pd.DataFrame({"text": TEXT}), "dataset", {})
    mask = pd.DataFrame([(layer, unit, unit < 100) for layer in range(3) for unit in range(512)])
    artifacts.write_parquet(tmp_path / "mask.parquet", mask.set_axis(["layer", "unit", "keep"], axis=1), "mask", {})
    scores = pd.DataFrame([(layer, unit, 1.0) for layer in range(3) for unit in range(512)])
    scores = scores.set_axis(["layer", "unit", "score"], axis=1)
    artifacts.write_parquet(tmp_path / "scores.parquet", scores, "scores", {})
    weights, beside = needed(folder, stage, **lengths)
    total = weights * (2 if name == "distillation" else 1) + beside  # the teacher's

    def loaded(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(loading, "load", loaded)
    monkeypatch.setattr(memory, "available", lambda: total)
    with pytest.raises(InterruptedError):
        run(name, folder, tmp_path)
    monkeypatch.setattr(memory, "available", lambda: total - 1)
    with pytest.raises(InputError, match=f"{stage}: model .* needs "):
        run(name, folder, tmp_path)
