"""Calibration: the text, and what is measured on it."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pruning.calibration.objectives import OBJECTIVES
from pruning.config.base import Alias, NonEmpty, Of, Positive, Strict

Objective = Literal[tuple(OBJECTIVES)]


class Calibration(Strict):
    dataset: Annotated[Alias, Of("datasets")]
    split: Alias = "train"
    answers: Alias | None = None
    """Task that asks this split's questions: the text is then the model's own right answers to it, in the format in
    which it was asked; null: the text of the split."""
    completion: str | None = None
    """In the place of the dataset's `completion`; empty: the questions alone."""
    samples: Positive = 256
    """Token sequences."""
    sequence_length: Annotated[int, Field(ge=2)] = 256
    """Tokens a sequence; longer documents are cut."""
    packing: Literal["concat", "document"] = "document"
    """`concat`: documents joined and cut into full sequences; `document`: one sequence each."""
    seed: int = 0
    """Order of the documents."""
    objectives: NonEmpty[Objective] = ["energy", "ce"]
    """Whose gradients are measured, a backward pass each: energy, energy_post, energy_last, energy_rest, ce."""
    token_mask: Literal["all", "answer"] = "all"
    """Tokens the objectives average over."""
    micro_batch: Positive = 8
    """Sequences a forward pass; part of the result's identity, unlike memory."""
    shards: Positive = 1
    """Separate jobs, one GPU each; merging is exact."""
    gradient_checkpointing: bool = False
    """Less memory, about one more forward pass an objective."""
    probed: Positive = 64
    """Samples, the first, on which the allocations `sensitivity` and `greedy` measure what cuts cost."""
    rounds: NonEmpty[Annotated[int, Field(gt=0, lt=100)]] = [20, 40, 50, 60, 70, 80]
    """Per cent of the neurons gone after each round of the score `rounds`, growing."""

    @field_validator("rounds")
    @classmethod
    def _growing(cls, rounds: list[int]) -> list[int]:
        if sorted(set(rounds)) != rounds:
            raise ValueError(f"must grow from round to round, not {rounds}")
        return rounds
