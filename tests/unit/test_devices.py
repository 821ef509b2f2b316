"""Leases on GPUs, with devices that exist only by name."""

import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pruning.core import devices
from pruning.core.errors import InputError
from workspace import ROOT, python


@pytest.fixture(autouse=True)
def own_leases(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def launch(*command: str, gpus: int, visible: str = "0,1", **environment) -> subprocess.Popen:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": visible, **environment}
    arguments = [sys.executable, str(ROOT / "scripts/launch.py"), "--gpus", str(gpus), "--", *command]
    return subprocess.Popen(arguments, env=env, stdout=-1, stderr=-1, text=True)


SHOW = ("sh", "-c", "echo $CUDA_VISIBLE_DEVICES; sleep 30")


def test_two_jobs_get_different_devices_and_a_third_waits_until_one_is_killed():
    first, second = launch(*SHOW, gpus=1), launch(*SHOW, gpus=1)
    got = {first.stdout.readline().strip(), second.stdout.readline().strip()}
    assert got == {"0", "1"}
    third = launch("sh", "-c", "echo $CUDA_VISIBLE_DEVICES", gpus=1)
    time.sleep(1.5)
    assert third.poll() is None
    subprocess.run(["pkill", "-9", "-P", str(first.pid)])
    os.kill(first.pid, signal.SIGKILL)
    out, _ = third.communicate(timeout=20)
    assert out.strip() in got
    for process in (first, second):
        subprocess.run(["pkill", "-9", "-P", str(process.pid)])
        process.kill()
        process.communicate()


def test_each_allocation_of_slurm_has_its_own_devices():
    first = launch(*SHOW, gpus=1, visible="0", SLURM_JOB_ID="1")
    assert first.stdout.readline().strip() == "0"
    second = launch("sh", "-c", "echo $CUDA_VISIBLE_DEVICES", gpus=1, visible="0", SLURM_JOB_ID="2")
    assert second.communicate(timeout=10)[0].strip() == "0"  # another GPU of the same number
    subprocess.run(["pkill", "-9", "-P", str(first.pid)])
    first.kill()
    first.communicate()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gpus": 0}, "[]"),  # all are hidden
        ({"gpus": 1, "visible": "5,7", "SLURM_JOB_ID": "1"}, "[5]"),  # of its allocation
        ({"gpus": 3}, "error: 3 GPUs requested, 2 visible: lower `gpus` in the model's config, or run elsewhere"),
    ],
)
def test_a_job_sees_the_gpus_it_asked_for(given: dict, said: str):
    job = launch("sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]", **given)
    assert "".join(job.communicate()).strip() == said and job.returncode == ("error" in said)


def test_visible_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-ab12")
    assert devices.visible() == ["2", "GPU-ab12"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.visible() == []
    with pytest.raises(InputError, match="1 GPUs requested, 0 visible"):
        devices.lease(1, devices.visible())


NONE_LIKE_IT = "4096"  # no machine has so many
SCORE = ["--model", "m", "--evidence", "statistics=s", "--settings", "{}", "--output", "o"]
MEASURE = ["--what", "gradients", "--model", ".", "--data", "d", "--settings", "{}", "--output", "o"]


@pytest.mark.parametrize(("stage", "options"), [("score", SCORE), ("measure", MEASURE)])
def test_a_job_whose_gpu_torch_cannot_use_does_not_run_on_the_cpu(forking, stage: str, options: list[str]):
    command = [python(), str(ROOT / f"scripts/{stage}.py"), *options]
    job = launch(*command, gpus=1, visible=NONE_LIKE_IT)
    _, errors = job.communicate(timeout=60)
    said = f"error: 1 GPUs requested: torch can use 0 GPUs here (CUDA_VISIBLE_DEVICES={NONE_LIKE_IT}): name GPUs that"
    assert job.returncode == 1 and errors.startswith(said) and len(errors.splitlines()) == 1
    on_the_cpu = launch(*command, gpus=0, HF_HUB_OFFLINE="1")
    assert "GPU" not in on_the_cpu.communicate(timeout=60)[1]


def test_every_stage_that_is_given_gpus_looks_for_them():
    launched = set()
    for rules in (ROOT / "rules").rglob("*.smk"):
        for rule in re.split(r"^ *rule ", rules.read_text(), flags=re.M):
            if re.search(r"\bon_gpu\b", rule):
                launched |= set(re.findall(r"code\(\s*\"([\w/]+)\"", rule))
    assert {"measure", "score", "recover", "evaluate", "timing", "report"} <= launched
    for stage in launched:
        assert f"cli.run({Path(stage).name})" in (ROOT / f"scripts/{stage}.py").read_text(), stage


def test_a_driver_that_does_not_answer_ends_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nsleep 60\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "ANSWER_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(InputError, match="nvidia-smi has not answered for 0 seconds: .* CUDA_VISIBLE_DEVICES"):
        devices.visible()
    assert time.monotonic() - started < 10
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0: A; echo GPU 1: B\n")
    assert devices.visible() == ["0", "1"]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert devices.visible() == []


def test_leases_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / f"gpu-leases-{os.getuid()}").write_text("a file, where a folder should be")
    job = launch("true", gpus=1)
    _, errors = job.communicate(timeout=20)
    assert job.returncode == 1 and errors.startswith("error: no lease on a GPU can be written: ")
    assert "set TMPDIR" in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "slow", "fast"),
    [
        # EPYC 7003: 1.3 GFLOP/s, 146 in float32
        ("fpu avx avx2 f16c", {"bfloat16": 100, "float16": 100}, False),
        # Xeon: 60, 240 to 280
        ("fpu avx512f avx512bw avx512vl avx512dq", {"bfloat16": 4, "float16": 100}, False),
        ("fpu avx512bw avx512vl avx512dq avx512_bf16", {"float16": 100}, True),
        ("fpu avx512bw avx512vl avx512dq avx512_bf16 avx512_fp16 amx_bf16", {}, True),
        ("", {}, False),
    ],
)
def test_the_types_that_a_cpu_is_slow_in(flags: str, slow: dict[str, int], fast: bool, monkeypatch):
    monkeypatch.setattr(devices, "cpu_flags", lambda: frozenset(flags.split()))
    assert devices.slow_dtypes() == slow and devices.multiplies_bfloat16() == fast


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its flags are those of x86")
def test_torch_says_the_same_of_this_cpu():
    import torch

    kernels = torch.ops.mkldnn
    has = {"bfloat16": kernels._is_mkldnn_bf16_supported(), "float16": kernels._is_mkldnn_fp16_supported()}
    without = {dtype for dtype, times in devices.slow_dtypes().items() if times == 100}
    assert without == {dtype for dtype, kernel in has.items() if not kernel}
