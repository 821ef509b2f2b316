"""What a rehearsal without data counts is what the same code holds at once with data."""

from pathlib import Path

import pytest
import torch
import yaml

import tiny
from pruning.analysis import footprint
from pruning.models import rehearsal
from pruning.models.loading import load
from workspace import ROOT

CALIBRATION = {"micro_batch": 5, "sequence_length": 64, "objectives": ["energy", "ce"], "gradient_checkpointing": False}
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
    "perplexity": lambda network: footprint.perplexity(network, {"batch_size": 3, "seqlen": 100}),
    "answers": lambda network: footprint.answers(network, 4, 60, 30),
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
    assert held("recovery, a document at a time") < 0.5 * held("recovery")


def test_the_papers_model_fits_a_card_of_24_gb():
    """Every stage that takes a GPU, with the settings of the config, less half a gigabyte for CUDA itself."""
    config = yaml.safe_load((ROOT / "config/qwen2_5-7b.yaml").read_text())
    network = rehearsal.model(ROOT / "resources/architectures/qwen2_5-7b", "bfloat16")
    left = 24 * 2**30 - 0.5e9 - sum(parameter.nbytes for parameter in network.parameters())
    calibration, tuning = config["calibrations"]["gsm8k-s0"], config["tunings"]["gsm8k-150"]
    assert footprint.calibration(network, calibration) < left
    assert footprint.perplexity(network, {"batch_size": 4, "seqlen": 2048}) < left
    assert footprint.answers(network, 32, 1024, 256) < left
    assert footprint.second_moments(network, calibration) < left
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert footprint.lora(network, {"micro_batch": None, "seed": 0, "targets": targets, **tuning}) < left
