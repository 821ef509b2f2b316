"""Tasks: what a model is evaluated on, and the text whose perplexity is measured."""

from typing import Annotated, Literal

from pydantic import Field

from pruning.config.base import Alias, NonEmpty, Of, Positive, Strict

CHARACTER = 4  # bytes of one, at most, in UTF-8


class StopEarly(Strict):
    """When the evaluation of a model ends early: its first answers show that the rest does not matter."""

    after: Positive
    """How many items, from the first on, every model is evaluated on."""
    below: Annotated[float, Field(gt=0, lt=1)]
    """An accuracy that would not matter: evaluation ends where the interval of every metric lies below it."""
    confidence: Annotated[float, Field(ge=0.9, lt=1)] = 0.99
    """Confidence level of that interval, as a fraction."""


class LmEvalTask(Strict):
    kind: Literal["lm_eval"]
    """`lm_eval`: a task of lm-evaluation-harness, scored by item."""
    title: str
    """Name in the tables."""
    metrics: NonEmpty[str]
    """lm-eval's names, with the filter where there is one: `acc`, `exact_match,strict-match`."""
    definition: Alias | None = None
    """File of config/tasks; null: the one named as the task."""
    limit: Positive | None = None
    """At most this many items, from `first` on."""
    first: Annotated[int, Field(ge=0)] = 0
    """Number of the first item that is evaluated."""
    stop_early: StopEarly | None = None
    """Skip the rest of the items for a collapsed model; its row says so."""
    backend: Literal["llama_cpp"] | None = None
    """What answers in place of a model whose GGUF file is evaluated (`quantised` of tables): `llama_cpp` runs that file
    itself, as a check of what the harness makes of its values. Other models answer themselves."""
    chance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Accuracy of guessing, as a fraction: what a collapsed model is left with."""
    batch_size: Positive = 32
    """Items per forward pass; halved when memory runs out."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Worked examples before the question; null: as many as the task says."""
    shared_examples: bool = False
    """The same examples, the first of their split, before every question, so that they are computed once; else lm-eval
    draws some for each."""
    chat_template: bool = False
    """Prompt in the tokenizer's chat format."""
    max_gen_toks: Positive | None = None
    """Most tokens of a generated answer; null: as many as the task says."""

    def check(self) -> None:
        if early := self.stop_early:
            if self.limit is not None and early.after >= self.limit:
                raise ValueError(f"stop_early.after: {early.after} items are all that `limit` allows ({self.limit})")
            if early.below <= self.chance:
                raise ValueError(f"stop_early.below: {early.below} is no better than guessing (chance: {self.chance})")


class PerplexityTask(Strict):
    kind: Literal["perplexity"]
    """`perplexity`: how well a text is predicted, scored by window, or by record where there is a `prompt`."""
    title: str
    """Name of this text in the tables."""
    dataset: Annotated[Alias, Of("datasets")]
    """Dataset of the text, an entry of `datasets`."""
    split: Alias = "test"
    """Split of the text."""
    answers: Annotated[Alias | None, Field(exclude_if=lambda value: value is None)] = None
    """Task that evaluates on this split: the text is then the dense model's own right answers to it, whose fields are
    `prompt` and `completion`."""
    prompt: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """What is read before a record's text and is not scored; fields in braces. Each record is then scored by itself,
    but for those of more than `seqlen` tokens; after a prompt in the model's chat format the end of its answer, too.
    null: records are joined, and cut into windows."""
    text: str = "{text}"
    """Text of a record; fields in braces."""
    joiner: str = "\n\n"
    """Between records."""
    per: Annotated[Literal["token", "byte"], Field(exclude_if=lambda value: value == "token")] = "token"
    """`byte`: bits per byte of pieces of the text, for models of different tokenizers; `seqlen` and `tokens` are then
    bytes."""
    seqlen: Annotated[int, Field(ge=2)] = 2048
    """Tokens per window; perplexities of different windows do not compare."""
    tokens: Positive | None = None
    """At most this many tokens, from the first on: 40 windows or more, for the tests to tell something."""
    batch_size: Positive = 4
    """Windows per forward pass."""
    divergence: bool = False
    """Also the KL divergence of a model's next tokens from the dense model's (`kl`, nats per token). For it a file
    keeps the dense model's hidden size in numbers for each token."""

    def check(self) -> None:
        if self.divergence and self.per == "byte":
            raise ValueError("divergence: compares next tokens, and `per: byte` is for models of other tokens")
        if self.per == "byte" and self.seqlen < CHARACTER:
            raise ValueError(f"seqlen: {self.seqlen} bytes may be less than a character: set {CHARACTER} or more")


Task = Annotated[LmEvalTask | PerplexityTask, Field(discriminator="kind")]
