"""Analyses: the other tables and figures, a section each."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pruning.config.base import Alias, Dtype, NonEmpty, Of, Percent, Positive, Strict, choices
from pruning.config.budgets import DecodeTokens, PromptTokens, Warmup
from pruning.config.calibration import Objective
from pruning.methods.scores.utility import REDUCTIONS
from pruning.methods.scoring import NORMALISATIONS


class Overlap(Strict):
    """Table 4 and Figure 3."""

    pairs: Annotated[NonEmpty[tuple[Alias, Alias]], Of("methods")]
    """Methods whose masks are compared; the heat map shows the first."""
    sparsities: NonEmpty[Percent] = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    """Per cent of FFN neurons removed, for each of which masks are compared."""


class Interpretation(Strict):
    """How the paper's methods may have been computed: one consistent choice for each."""

    title: str
    """Heading of this interpretation in the table."""
    rku: Annotated[Alias, Of("methods")]
    """Method in the place of the paper's RKU: a preset, or `{objective}-{reduction}-{normalise}-{allocate}`."""
    agf: Annotated[Alias, Of("methods")]
    """Method in the place of the paper's AGF."""
    taylor: Annotated[Alias, Of("methods")]
    """Method in the place of the paper's Taylor-FO."""
    wanda: Annotated[Alias, Of("methods")] = "wanda"
    """Method in the place of the paper's Wanda."""


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
    """Quantile of a layer below which a neuron's activation or gradient is low."""
    objective: Objective = "energy"
    """Whose gradient is the kinetic one."""

    def check(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"trap.low: {self.low} is not below trap.high, {self.high}")


class Cases(Strict):
    """Table 5."""

    dataset: Annotated[Alias, Of("datasets")]
    """Dataset of the prompts, an entry of `datasets`."""
    split: Alias = "test"
    """Split of the prompts."""
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
    """Most tokens that a model generates for a prompt."""
    excerpt: Positive = 600
    """Characters that the table shows."""


class Collapse(Strict):
    """Accuracy against sparsity, with the sparsity at which it has fallen halfway to chance."""

    task: Annotated[Alias, Of("tasks")]
    """Task of the curves, an entry of `tasks` of kind `lm_eval`."""
    sparsities: Annotated[list[Percent], Field(min_length=2)] = [10, 20, 30, 40, 50, 60, 70, 80, 90]
    """Per cent of FFN neurons removed, the points of the curves; two or more."""
    resamples: Positive = 2000
    """Bootstrap resamples over items of the fitted collapse points, and of their differences from the reference's."""
    background: list[str] = []
    """Methods that the figure has in grey, so that the others stand out."""


class Ablation(Strict):
    """RKU's choices, one by one: every combination at the experiment's sparsity."""

    task: Annotated[Alias, Of("tasks")]
    """Task that all combinations are evaluated on, an entry of `tasks` of kind `lm_eval`."""
    objectives: NonEmpty[Objective] = ["energy", "energy_post", "ce"]
    """Objectives whose gradients are combined, of those that the calibration measures."""
    reductions: NonEmpty[Literal[REDUCTIONS]] = ["net_abs", "abs", "share", "sq", "grad_sq"]
    """How a neuron's products of activation and gradient become one score
    (scripts/pruning/methods/scores/utility.py)."""
    normalisations: NonEmpty[Literal[tuple(NORMALISATIONS)]] = ["none", "layer_sum"]
    """With uniform allocation no normalisation changes a mask: it is left out there."""
    allocations: NonEmpty[Literal[choices("methods/allocation")]] = ["uniform", "global"]
    """Allocations that are combined: how many neurons each layer keeps."""


class Tradeoff(Strict):
    """Quality, size and speed of the very models that tables show, and which of them no other beats."""

    tables: Annotated[NonEmpty[Alias], Of("tables")]
    """Tables whose models are timed and drawn, where they are evaluated on `task`; tables that are null are left
    out."""
    task: Alias | None = None
    """Task whose result is the quality; null: the first column of the first of these tables."""
    prompt_tokens: PromptTokens = 512
    decode_tokens: DecodeTokens = 32
    rounds: Positive = 9
    """Repetitions; each times a model and the dense one, in changing order."""
    warmup: Warmup = 1


class LlamaCpp(Strict):
    """How GGUF files are timed in llama.cpp, on the CPU, for tables with `quantised` or `siblings`."""

    prompt_tokens: PromptTokens = 256
    decode_tokens: DecodeTokens = 16
    rounds: Positive = 9
    """Repetitions; each times a file and the dense model's, in changing order."""
    warmup: Warmup = 1


class Latency(Strict):
    """Speed of dense and compact shapes with random weights."""

    shapes: dict[Alias, dict[str, Any] | None] = {}
    """Name -> a whole transformers config (with `model_type`), null for none; the experiment's models need none."""
    sparsities: NonEmpty[Percent] = [30, 50]
    """Per cent of FFN neurons removed, for each of which every shape is timed."""
    methods: Annotated[list[Alias], Of("methods")] = []
    """Methods whose widths are measured for the experiment's models, at `sparsities`."""
    prompt_tokens: Positive = 2048
    """Tokens of the prompt whose prefill is timed (the paper's 2048)."""
    decode_tokens: DecodeTokens = 32
    rounds: Positive = 15
    """Repetitions; each times every shape once, in changing order."""
    warmup: Warmup = 2
    dtype: Dtype = "float32"
    """Weights and activations of the timed models."""
    gpus: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs that the job takes; 0 measures on the CPU."""
    memory_gb: Positive = 4
    """Memory in GB that the job takes (CPU side)."""
