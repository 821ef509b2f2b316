"""Calibration: the data, and what is measured on it. Tuning: recovery of a compact model."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pruning.config.base import Alias, NonEmpty, Of, Positive, Strict
from pruning.core.objectives import OBJECTIVES

Objective = Literal[tuple(OBJECTIVES)]


class Calibration(Strict):
    dataset: Annotated[Alias, Of("datasets")]
    """Dataset of the calibration data, an entry of `datasets`."""
    split: Alias = "train"
    """Split of that dataset; test items should come from another one."""
    answers: Alias | None = None
    """Task that evaluates on this split: the calibration data is then the model's own right answers to it, in the
    task's format; null: the split's own text."""
    completion: str | None = None
    """In the place of the dataset's `completion`; empty: the questions alone."""
    samples: Positive = 256
    """Token sequences."""
    sequence_length: Annotated[int, Field(ge=2)] = 256
    """Tokens per sequence; longer documents are cut."""
    packing: Literal["concat", "document"] = "document"
    """`concat`: documents joined and cut into full sequences; `document`: one sequence each."""
    seed: int = 0
    """Random seed of the documents' order."""
    objectives: list[Objective] = ["energy", "ce"]
    """Whose gradients are measured, one backward pass each: energy, energy_post, energy_last, energy_rest, ce; empty:
    activations alone."""
    token_mask: Literal["all", "answer"] = "all"
    """Tokens the objectives average over."""
    micro_batch: Positive = 8
    """Sequences per forward pass; part of the result's identity, unlike memory."""
    shards: Positive = 1
    """Separate jobs, one GPU each; merging is exact."""
    gradient_checkpointing: bool = False
    """Less memory, about one more forward pass per objective."""
    probed: Positive = 64
    """How many samples, from the first on, the allocations `sensitivity`, `greedy` and `sensitivity_joint` measure
    the cost of removals on."""
    gradient_samples: Annotated[Positive | None, Field(exclude_if=lambda value: value is None)] = None
    """`obs` and `rounds` take gradients at layers' outputs of so many samples, from the first on; all where null."""
    rounds: NonEmpty[Annotated[int, Field(gt=0, lt=100)]] = [20, 40, 50, 60, 70, 80]
    """Per cent of the neurons removed after each iteration of the score `rounds`, growing."""

    @field_validator("rounds")
    @classmethod
    def _growing(cls, rounds: list[int]) -> list[int]:
        if sorted(set(rounds)) != rounds:
            raise ValueError(f"must grow from iteration to iteration, not {rounds}")
        return rounds


class Tuning(Strict):
    """LoRA recovery. The paper names only the 150 steps: everything else here is our choice."""

    dataset: Annotated[Alias, Of("datasets")]
    """Dataset of the training data, an entry of `datasets`."""
    split: Alias = "train"
    """Split of the training data; test items should come from another one."""
    answers: Alias | None = None
    """As of a calibration: the training data is the dense model's own right answers to this task."""
    answered_by: Literal["dense", "pruned"] = "dense"
    """Whose `answers`; `pruned`: all answers of the model that is to be recovered, right or wrong, on which it is
    distilled (on-policy; Agarwal et al. 2024, arXiv 2306.13649)."""
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
    """Random seed of the initial adapters and of the documents' order."""
    checkpoint_every: Positive = 25
    """Steps after which a killed training can go on."""
    note: str | None = None
    """What a reader of the tables must know about this recovery."""

    def check(self) -> None:
        if self.answered_by == "pruned" and not self.answers:
            raise ValueError("answered_by: pruned: name the task that the pruned model answers as `answers`")
        if self.answered_by == "pruned" and self.objective != "distillation":
            raise ValueError("answered_by: pruned: its answers may be wrong: set `objective: distillation`")
