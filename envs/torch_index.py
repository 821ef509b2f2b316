"""Options for pip where torch's CPU build is the one to install: Linux without an NVIDIA device, as `make env` asks.

PyPI's torch for Linux brings gigabytes of CUDA along. pip prefers 2.13.0+cpu of the second index to PyPI's 2.13.0.
Nothing is printed where the index does not answer soon, and pip takes what it finds; nor where jobs may run on other
machines than this (`sbatch`). TORCH_INDEX=URL names another index, TORCH_INDEX= none.
"""

import os
import shutil
import sys
import threading
import urllib.request
from pathlib import Path

CPU = "https://download.pytorch.org/whl/cpu"
DEVICES = ("/dev/nvidia0", "/dev/nvidiactl", "/proc/driver/nvidia", "/dev/dxg")
SECONDS = 3


def options(devices: tuple[str, ...] = DEVICES, index: str = CPU) -> list[str]:
    if "TORCH_INDEX" in os.environ:
        index = os.environ["TORCH_INDEX"]
        return ["--extra-index-url", index] if index else []
    elsewhere = shutil.which("nvidia-smi") or shutil.which("sbatch") or any(Path(device).exists() for device in devices)
    return ["--extra-index-url", index] if sys.platform == "linux" and not elsewhere and answers(index) else []


def answers(index: str) -> bool:
    """Whether it lists torch, within SECONDS all told: looking a name up knows no time limit of its own."""
    found = threading.Event()

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{index}/torch/", timeout=SECONDS):
                found.set()
        except (OSError, ValueError):
            pass

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return found.is_set()


if __name__ == "__main__":
    print(*options())
