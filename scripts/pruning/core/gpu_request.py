"""What a job is told of GPUs, and what is said where torch cannot use them."""

import os

ASKED = "GPUS_ASKED"
"""Environment variable: how many GPUs a job was given, which its code must then use (core/cli.py)."""


def refusal(count: int) -> str:
    """What to say where torch can use only so many GPUs, fewer than were asked for."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    here = f"CUDA_VISIBLE_DEVICES={named}" if named is not None else "CUDA_VISIBLE_DEVICES is not set"
    return (
        f"torch can use {count} GPUs here ({here}): name GPUs that this machine has, install a torch that is built for "
        "its driver, or run on the CPU (`gpus: 0`; of `prune`: CUDA_VISIBLE_DEVICES=)"
    )
