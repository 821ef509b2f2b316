"""A model whose layers stay on disk is measured as one in memory, to the bit, with one layer's weights at a time."""

import weakref
from pathlib import Path

import cards
import pytest
import torch
from test_config import edited, refusal
from torch import nn
from torch.utils._device import _device_constructors

import tiny
from pruning.calibration import gradients, output_gradients, prepare, second_moments
from pruning.core.errors import InputError
from pruning.models import families, loading, offload, rehearsal

SETTINGS = {"dtype": "float32", "micro_batch": 3, "sequence_length": 20}
LAYERS = 4


DENSE, MIXTURES = ["qwen2", "gemma2", "phi3"], ["qwen3_moe", "gpt_oss", "deepseek_v3"]


@pytest.fixture(scope="module", params=DENSE)
def folder(request, tmp_path_factory) -> Path:
    return saved(request.param, tmp_path_factory.mktemp(request.param))


def saved(family: str, place: Path) -> Path:
    return tiny.save(tiny.of_family(family, layers=LAYERS), place / "model")


def opened(folder: Path, on_disk: bool, again: bool = True, **changes):
    return prepare.dense(folder, {**SETTINGS, "offload": on_disk, "gradient_checkpointing": again, **changes})[0]


def batches(samples: int = 3) -> list[prepare.Batch]:
    torch.manual_seed(0)
    return prepare.as_batches([torch.randint(3, 90, (samples, 20)) for _ in range(3)])


def in_memory(network: nn.Module) -> list[str]:
    """Weights of layers that are in memory now."""
    named = network.get_submodule(families.of(network).layers).named_parameters()
    return [name for name, each in named if not each.is_meta]


@pytest.mark.parametrize("family", [*DENSE, *MIXTURES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_statistics_are_those_of_the_whole_model(tmp_path, family, dtype):
    folder = saved(family, tmp_path)
    whole, disk = (opened(folder, on_disk, dtype=dtype) for on_disk in (False, True))
    assert in_memory(whole) and not in_memory(disk)
    frames = [gradients.statistics(network, batches(), ["energy", "ce"]) for network in (whole, disk)]
    assert all(one.equals(other) for one, other in zip(*frames, strict=True))
    assert not in_memory(disk)


def test_matrices_are_those_of_the_whole_model(folder):
    whole, disk = (opened(folder, on_disk, again=False) for on_disk in (False, True))
    pairs = zip(*(second_moments.second_moments(network, batches(5)) for network in (whole, disk)), strict=True)
    assert all(one[part].equal(other[part]) for one, other in pairs for part in one)
    whole, disk = (opened(folder, on_disk) for on_disk in (False, True))
    ours, theirs = (output_gradients.output_gradients(network, batches(), 0)[0] for network in (whole, disk))
    assert len(ours) == LAYERS and all(map(torch.equal, ours, theirs))


def test_one_layer_is_in_memory_at_a_time(folder):
    """A backward pass holds the weights that it has computed with until it is through with their layer."""
    network = opened(folder, True)
    layers, alive, most = families.decoder_layers(network), {}, 0

    def count(module: nn.Module, *_) -> None:
        nonlocal most
        storage = module.weight.untyped_storage()
        if storage._cdata not in alive:
            alive[storage._cdata] = storage.nbytes()
            weakref.finalize(storage, alive.pop, storage._cdata)
        most = max(most, sum(alive.values()))

    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                watch(module, count)
    gradients.statistics(network, batches(), ["energy", "ce"])
    linear = sum(module.weight.numel() * 4 for module in layers[0].modules() if isinstance(module, nn.Linear))
    assert linear / 2 < most <= linear


def watch(module: nn.Linear, look) -> None:
    """Call `look` where the module computes, after accelerate has read its weights."""
    own = module._old_forward

    def forward(*args, **kwargs):
        look(module)
        return own(*args, **kwargs)

    module._old_forward = forward


def test_memory_asked_for_is_that_of_one_layer(folder, monkeypatch):
    network = rehearsal.network(folder, "float32")
    layers = [sum(each.nbytes for each in layer.parameters()) for layer in families.decoder_layers(network)]
    whole = sum(each.nbytes for each in network.parameters())
    assert rehearsal.weight_bytes(network, False) == whole
    assert rehearsal.weight_bytes(network, True) == whole - sum(layers[1:])
    settings = {**SETTINGS, "objectives": ["ce"], "gradient_checkpointing": True}
    needed = rehearsal.weight_bytes(network, True) + gradients.STAGE.taken(network, settings).bytes
    monkeypatch.setattr(loading, "free_memory", lambda device="auto": ([(needed + 1000) / 1e9], False))
    rehearsal.must_fit(folder, "float32", gradients.STAGE, {**settings, "offload": True})
    with pytest.raises(InputError, match="GB of memory are free"):
        rehearsal.must_fit(folder, "float32", gradients.STAGE, settings)


def test_models_load_after_tests_on_two_gpus_as_before():
    """Else with rotary frequencies that nobody wrote: torch keeps which functions `torch.device` is for."""
    _device_constructors.cache_clear()
    with cards.two_cards(), torch.device("meta"):
        torch.empty(1)
    with torch.device("meta"):
        assert torch.tensor(1.0).is_meta


def test_every_part_has_one_place(folder):
    placed = offload.device_map(folder, "float32")
    assert {name for name, place in placed.items() if place == "disk"} == {f"model.layers.{n}" for n in range(LAYERS)}
    network = rehearsal.network(folder, "float32")
    for name, _ in [*network.named_parameters(), *network.named_buffers()]:
        assert sum(name.startswith(f"{part}.") for part in placed) == 1, name


@pytest.mark.parametrize(
    "method, kind",
    [
        ({"score": "wanda", "compensate": "ridge_corrective"}, "refit"),
        ({"score": "wanda", "allocate": "sensitivity"}, "sensitivity"),
        ({"score": "rounds"}, "rounds"),
        ({"score": "parameter_taylor"}, "parameter_taylor"),
    ],
)
def test_methods_that_need_all_weights_are_refused(method, kind):
    own = {"models|tiny-reasoner|offload": True, "methods|mine": method}
    changed = edited(own | {"tables|table1|methods": ["wanda", "mine"]})
    message = f"models.tiny-reasoner.offload: mine of tables.table1 needs all weights in memory ({kind})"
    assert message in refusal(changed)
