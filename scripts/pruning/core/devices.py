"""GPUs: which are visible, and a lease on some of them that the kernel gives back even after SIGKILL. The CPU: in which
types it is slow."""

import fcntl
import os
import subprocess
import tempfile
import time
from pathlib import Path

from pruning.core.errors import InputError

LEASES = Path(tempfile.gettempdir()) / f"gpu-leases-{os.getuid()}"


def visible() -> list[str]:
    """GPUs this process may use: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def slow_dtypes(flags: str | None = None) -> tuple[str, ...]:
    """Types that torch has no kernels for on this CPU (2.13 on AVX2: a product takes a hundred times as long).

    flags: as /proc/cpuinfo has them; None: of this machine. Where they are unknown, no type is called slow."""
    if flags is None:
        try:
            flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
        except (OSError, StopIteration):
            return ()
    have = set(flags.split())
    needed = {"bfloat16": {"avx512bw", "avx512vl", "avx512dq"}, "float16": {"avx512_fp16"}}  # oneDNN's isa checks
    return tuple(dtype for dtype, instructions in needed.items() if not instructions <= have)


def lease(count: int, devices: list[str], poll_seconds: float = 1.0) -> list[str]:
    """Wait for `count` free devices and lock them for this process and whatever it becomes by exec.

    A device is locked by flock on a file; the lock's descriptor is inherited and never closed, so it lasts exactly
    as long as the process. Raises InputError if that many devices do not exist, or if nothing can be written where the
    leases are."""
    if count > len(devices):
        raise InputError(
            f"{count} GPUs asked, {len(devices)} visible: lower `gpus` in the model's config, or run elsewhere"
        )
    while True:
        held: dict[str, int] = {}
        for device in devices:
            try:
                LEASES.mkdir(mode=0o700, exist_ok=True)
                descriptor = os.open(LEASES / device.replace("/", "_"), os.O_CREAT | os.O_RDWR, 0o600)
            except OSError as error:
                raise InputError(
                    f"no lease on a GPU can be written: {error}; make room for it, or set TMPDIR to your own folder"
                ) from None
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
        time.sleep(poll_seconds)
