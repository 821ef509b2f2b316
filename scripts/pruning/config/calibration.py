"""Calibration: the data, and what is measured on it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pruning.calibration.objectives import OBJECTIVES
from pruning.config.base import Alias, NonEmpty, Of, Positive, Strict

Objective = Literal[tuple(OBJECTIVES)]


class Calibration(Strict):
    dataset: Annotated[Alias, Of("datasets")]
    split: Alias = "train"
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
    """Order of the documents."""
    objectives: NonEmpty[Objective] = ["energy", "ce"]
    """Whose gradients are measured, one backward pass each: energy, energy_post, energy_last, energy_rest, ce."""
    token_mask: Literal["all", "answer"] = "all"
    """Tokens the objectives average over."""
    micro_batch: Positive = 8
    """Sequences per forward pass; part of the result's identity, unlike memory."""
    shards: Positive = 1
    """Separate jobs, one GPU each; merging is exact."""
    gradient_checkpointing: bool = False
    """Less memory, about one more forward pass per objective."""
    probed: Positive = 64
    """How many samples, from the first on, the allocations `sensitivity` and `greedy` measure the cost of removals
    on."""
    rounds: NonEmpty[Annotated[int, Field(gt=0, lt=100)]] = [20, 40, 50, 60, 70, 80]
    """Per cent of the neurons removed after each iteration of the score `rounds`, growing."""

    @field_validator("rounds")
    @classmethod
    def _growing(cls, rounds: list[int]) -> list[int]:
        if sorted(set(rounds)) != rounds:
            raise ValueError(f"must grow from round to round, not {rounds}")
        return rounds
