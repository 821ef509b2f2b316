"""The embedded model's recipe."""

from typing import Annotated

from pydantic import Field

from pruning.config.base import NonEmpty, Positive, Strict


class Mixture(Strict):
    """Recipe of the embedded mixture of experts, which is made of the embedded model and trained on (upcycling)."""

    experts: Positive
    """Experts of each layer: pairs that begin as copies of the same neurons of the dense model."""
    active: Positive
    """Experts that a token is sent to, half of all."""
    shared: Positive
    """Neurons of the expert that every token goes through beside them."""
    noise: Annotated[float, Field(ge=0)]
    """Share by which the copies differ at first: standard deviation of random factors of their weights."""
    steps: Positive
    """Training steps."""
    learning_rate: float
    """Highest learning rate of AdamW's schedule."""

    def check(self) -> None:
        if self.experts != 2 * self.active:
            raise ValueError(f"experts: {self.experts}: are pairs, one of each active: set {2 * self.active}")


class Reasoner(Strict):
    """Recipe of the embedded model; training it is a target of its own and no part of the table."""

    seed: int
    """Random seed of initial weights, documents and their order."""
    templates: NonEmpty[int]
    """gsm_symbolic template numbers of the training problems."""
    held_out_templates: NonEmpty[int]
    """Template numbers that no training document has; the model card reports accuracy on them."""
    drills: Annotated[float, Field(ge=0, le=1)]
    """Share of the documents that are bare arithmetic."""
    option_share: Annotated[float, Field(ge=0, le=1)]
    """Share of the problems that come with five options."""
    vocabulary: Positive
    """Tokens of the tokenizer."""
    shape: dict[str, int]
    """Sizes of the model, as keys of transformers' Qwen2Config."""
    context: Positive
    """Longest input of the model, in tokens."""
    rows: Positive
    """Sequences per training step."""
    length: Positive
    """Tokens per sequence."""
    steps: Positive
    """Training steps."""
    learning_rate: float
    """Highest learning rate of AdamW's schedule."""
    weight_decay: float
    """AdamW's weight decay."""
    test_size: Positive
    """Problems with unseen numbers that the model card reports accuracy on."""
    mixture: Mixture | None = None
    """A mixture of experts made of the embedded model; null: none."""
