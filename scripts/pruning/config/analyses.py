"""Analyses: the other tables and figures, a section each."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pruning.config.base import Alias, Dtype, NonEmpty, Of, Percent, Positive, Strict, choices
from pruning.config.calibration import Objective
from pruning.methods.normalise import NORMALISATIONS
from pruning.methods.scores.utility import REDUCTIONS


class Overlap(Strict):
    """Table 4 and Figure 3."""

    pairs: Annotated[NonEmpty[tuple[Alias, Alias]], Of("methods")]
    """Methods whose masks are compared; the heat map shows the first."""
    sparsities: NonEmpty[Percent] = [10, 20, 30, 40, 50, 60, 70, 80, 90]


class Interpretation(Strict):
    """How the paper's methods may have been computed: one consistent choice for each."""

    title: str
    """In words, for the table."""
    rku: Annotated[Alias, Of("methods")]
    """Methods: presets, or `{objective}-{reduction}-{normalise}-{allocate}`."""
    agf: Annotated[Alias, Of("methods")]
    taylor: Annotated[Alias, Of("methods")]
    wanda: Annotated[Alias, Of("methods")] = "wanda"


class Interpretations(Strict):
    """Which way of computing RKU, AGF and Taylor-FO fits the paper's own numbers."""

    rows: dict[Alias, Interpretation | None]
    """Null leaves one out."""
    sparsities: NonEmpty[Percent] = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    """Among those of `overlap`, whose comparisons of masks are read."""

    @property
    def used(self) -> dict[str, Interpretation]:
        return {name: reading for name, reading in self.rows.items() if reading}


class Spectrum(Strict):
    """Figure 1."""

    tokens: Positive = 2048
    """Calibration tokens whose activations are kept."""
    draws: Positive = 20
    """Random sets of neurons that the dense model's spectrum at equal width is averaged over."""


class Trap(Strict):
    """Figure 2: which neurons count as trapped (active, no gradient) and as spikes (gradient, not active)."""

    high: Annotated[float, Field(gt=0, lt=1)] = 0.75
    """Quantile of a layer above which a neuron's activation or gradient is high."""
    low: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Quantile below which it is low."""
    objective: Objective = "energy"
    """Whose gradient is the kinetic one."""

    @model_validator(mode="after")
    def _apart(self) -> "Trap":
        if self.low >= self.high:
            raise ValueError(f"trap.low: {self.low} is not below trap.high, {self.high}")
        return self


class Cases(Strict):
    """Table 5."""

    dataset: Annotated[Alias, Of("datasets")]
    split: Alias = "test"
    items: NonEmpty[int]
    """Row numbers of the split, from 0."""
    target: str
    """Text that holds the right answer; fields in braces."""
    answer_pattern: str
    """Regular expression whose first group is an answer."""
    until: list[str] = []
    """The answer is looked for before the first of these; the text goes on."""
    chat_template: bool = False
    """Prompt in the tokenizer's chat format."""
    tokens: Positive = 300
    excerpt: Positive = 600
    """Characters that the table shows."""


class Collapse(Strict):
    """Accuracy against sparsity, with the sparsity at which it has fallen halfway to chance."""

    task: Annotated[Alias, Of("tasks")]
    sparsities: Annotated[list[Percent], Field(min_length=2)] = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    resamples: Positive = 2000
    """Bootstrap resamples over items of the fitted collapse points, and of their differences from the reference's."""
    background: list[str] = []
    """Methods that the figure has in grey, so that the others stand out."""


class Ablation(Strict):
    """RKU's choices, one by one: every combination at the experiment's sparsity."""

    task: Annotated[Alias, Of("tasks")]
    objectives: NonEmpty[Objective] = ["energy", "energy_post", "ce"]
    reductions: NonEmpty[Literal[REDUCTIONS]] = ["net_abs", "abs", "share", "sq", "grad_sq"]
    normalisations: NonEmpty[Literal[tuple(NORMALISATIONS)]] = ["none", "layer_sum"]
    """With uniform allocation no normalisation changes a mask: it is left out there."""
    allocations: NonEmpty[Literal[choices("methods/allocation")]] = ["uniform", "global"]


class Tradeoff(Strict):
    """Quality, size and speed of the very models that tables show, and which of them no other beats."""

    tables: Annotated[NonEmpty[Alias], Of("tables")]
    """Their models, where they ask the task; those that are null are left out."""
    task: Alias | None = None
    """What quality is; null: the first column of the first of these tables."""
    prompt_tokens: Positive = 512
    decode_tokens: Positive = 32
    rounds: Positive = 9
    """Every round measures a model and the dense one, in changing order."""
    warmup: Positive = 1


class LlamaCpp(Strict):
    """How GGUF files are timed in llama.cpp, on the CPU, for tables with `quantised` or `siblings`."""

    prompt_tokens: Positive = 256
    decode_tokens: Positive = 16
    rounds: Positive = 9
    """Every round measures a file and the dense model's, in changing order."""
    warmup: Positive = 1


class Latency(Strict):
    """Speed of dense and compact shapes with random weights."""

    shapes: dict[Alias, dict[str, Any] | None] = {}
    """Name -> a whole transformers config (with `model_type`), null for none; the experiment's models need none."""
    sparsities: NonEmpty[Percent] = [30, 50]
    """Uniform widths that are measured for each shape."""
    methods: Annotated[list[Alias], Of("methods")] = []
    """Methods whose widths are measured for the experiment's models, at `sparsities`."""
    prompt_tokens: Positive = 2048
    """Prefill (the paper's 2048)."""
    decode_tokens: Positive = 32
    rounds: Positive = 15
    """Every round measures every shape once, in changing order."""
    warmup: Positive = 2
    dtype: Dtype = "float32"
    gpus: Annotated[int, Field(ge=0)] = 0
    memory_gb: Positive = 4
