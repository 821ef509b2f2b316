"""Tuning: recovery of a compact model."""

from typing import Annotated, Literal

from pydantic import Field

from pruning.config.base import Alias, NonEmpty, Of, Positive, Strict


class Tuning(Strict):
    """LoRA recovery. The paper names only the 150 steps: everything else here is our choice."""

    dataset: Annotated[Alias, Of("datasets")]
    split: Alias = "train"
    answers: Alias | None = None
    """As of a calibration: the training data is the dense model's own right answers to this task."""
    objective: Literal["cross_entropy", "distillation"] = "cross_entropy"
    """On the training data's tokens (the paper's), or KL divergence from the dense model's next tokens there."""
    steps: Positive = 150
    """Optimiser steps (the paper's 150)."""
    rank: Positive = 8
    """LoRA rank; ours."""
    alpha: Positive = 16
    """LoRA scaling; ours."""
    targets: NonEmpty[str] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    """Linear modules that get adapters; ours."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """AdamW, constant; ours."""
    batch_size: Positive = 16
    """Documents per step; ours."""
    micro_batch: Positive | None = None
    """Documents that go through the model at once; null: all of a step. Fewer take less memory; gradients add up."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass instead of keeping it: less memory, a third more time."""
    sequence_length: Annotated[int, Field(ge=2)] = 512
    """Tokens per document; longer ones are cut; ours."""
    seed: int = 0
    """Initial adapters and order of the documents."""
    checkpoint_every: Positive = 25
    """Steps after which a killed training can go on."""
    note: str | None = None
    """What a reader of the tables must know about this recovery."""
