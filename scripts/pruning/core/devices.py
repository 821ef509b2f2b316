"""GPUs: which are visible, and a lease on some of them that the kernel gives back even after SIGKILL. The CPU: in which
types it is slow."""

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path

from pruning.core.errors import InputError

ANSWER_SECONDS = 60.0  # that a program which looks for GPUs has: the driver of a broken card never answers
LEASES = Path(tempfile.gettempdir()) / f"gpu-leases-{os.getuid()}"


def visible() -> list[str]:
    """GPUs this process may use: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists.

    Raises InputError where nvidia-smi does not answer."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    listed = _answer(["nvidia-smi", "-L"]) or ""
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def usable() -> int:
    """GPUs that torch can use of those visible, by the `python` that jobs call; its import takes seconds."""
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    return int(_answer(["python", "-c", code]) or 0)


def _answer(command: list[str]) -> str | None:
    """What a program prints; None where it is not there or fails. Raises InputError where it does not answer."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        printed, _ = process.communicate(timeout=ANSWER_SECONDS)
    except OSError:
        return None
    except subprocess.TimeoutExpired:
        process.kill()  # and no wait: a program that hangs in its driver does not end even so
        raise InputError(
            f"{command[0]} has not answered for {ANSWER_SECONDS:.0f} seconds: see what is wrong with the GPUs' driver, "
            "or set CUDA_VISIBLE_DEVICES, empty for none"
        ) from None
    return printed if process.returncode == 0 else None


def cpu_flags() -> frozenset[str]:
    """Return this CPU's instruction sets as /proc/cpuinfo has them; none where they are unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split() for line in lines if line.startswith("flags")), []))


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions for products in bfloat16: a quarter to a third of float32's time."""
    return bool({"amx_bf16", "avx512_bf16"} & cpu_flags())


def slow_dtypes() -> dict[str, int]:
    """Types in which a product takes much longer on this CPU than in float32, and how many times as long, about: 100
    where torch has no kernels (2.13 on AVX2), 4 where they do without the CPU's own instructions. Where instructions
    are unknown, no type is called slow."""
    if not (have := cpu_flags()):
        return {}
    needed = {"bfloat16": {"avx512bw", "avx512vl", "avx512dq"}, "float16": {"avx512_fp16"}}  # oneDNN's isa checks
    found = {dtype: 100 for dtype, instructions in needed.items() if not instructions <= have}
    return found if multiplies_bfloat16() else {"bfloat16": 4} | found


def lease(count: int, devices: list[str]) -> list[str]:
    """Wait for `count` free devices and lock them for this process and whatever it becomes by exec.

    A device is locked by flock on a file; the lock's descriptor is inherited and never closed, so it lasts exactly
    as long as the process. Raises InputError if that many devices do not exist, or if nothing can be written where the
    leases are."""
    if count > len(devices):
        remedy = "lower `gpus` in the model's config, or run elsewhere"
        raise InputError(f"{count} GPUs requested, {len(devices)} visible: {remedy}")
    while True:
        held: dict[str, int] = {}
        for device in devices:
            try:
                LEASES.mkdir(mode=0o700, exist_ok=True)
                named = f"{os.environ.get('SLURM_JOB_ID', '')}-{device}"  # each allocation may count its own from 0
                descriptor = os.open(LEASES / named.replace("/", "_"), os.O_CREAT | os.O_RDWR, 0o600)
            except OSError as error:
                remedy = "make room for it, or set TMPDIR to your own folder"
                raise InputError(f"no lease on a GPU can be written: {error}; {remedy}") from None
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            held[device] = descriptor
            if len(held) == count:
                for kept in held.values():
                    os.set_inheritable(kept, True)
                return list(held)
        for descriptor in held.values():  # never wait while holding some: two jobs could wait for each other
            os.close(descriptor)
        time.sleep(1)
