"""The embedded model's recipe."""

from typing import Annotated

from pydantic import Field

from pruning.config.base import NonEmpty, Positive, Strict


class Reasoner(Strict):
    """Recipe of the embedded model; training it is a target of its own and no part of the table."""

    seed: int
    templates: NonEmpty[int]
    held_out_templates: NonEmpty[int]
    drills: Annotated[float, Field(ge=0, le=1)]
    """Share of the documents that are bare arithmetic."""
    option_share: Annotated[float, Field(ge=0, le=1)]
    """Share of the problems that come with five options."""
    vocabulary: Positive
    shape: dict[str, int]
    context: Positive
    rows: Positive
    length: Positive
    steps: Positive
    learning_rate: float
    weight_decay: float
    test_size: Positive
