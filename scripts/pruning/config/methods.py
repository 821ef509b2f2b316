"""Pruning methods, and the names of their recombinations."""

import re
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pruning.config.base import NonEmpty, Positive, Strict, choices, keywords, known
from pruning.core.objectives import OBJECTIVES
from pruning.methods import allocation, compensation, latency_table, scores
from pruning.methods.scores.utility import REDUCTIONS
from pruning.methods.scoring import NORMALISATIONS

# Names of the recombinations of a utility score; the ablation is made of them.
ALLOCATIONS = choices("methods/allocation")
NEURONS_INSIDE = "expert_neurons"
"""The structure, and the allocation, by which a mixture's experts become narrower."""
CHOICES = (tuple(OBJECTIVES), REDUCTIONS, tuple(NORMALISATIONS), ALLOCATIONS)
GRID = {"-".join(parts) for parts in product(*CHOICES)}

# What a prefix, `{prefix}_<m>`, changes of a method.
PREFIXES: dict[str, dict[str, Any]] = {
    "shuffle": {"shuffle": 0},
    "ridge": {"compensate": "ridge"},
    "sequential": {"compensate": "ridge_sequential"},
    "corrective": {"compensate": "ridge_corrective"},
    "attention": {"compensate": "ridge_attention"},
    "block": {"compensate": "ridge_block"},
}


def usable(score: str) -> str:
    """Return a score's name. Raises InputError as scores.plugin."""
    scores.plugin(score)
    return score


def tokens(given: Any) -> int | str:
    """Return how many tokens are asked for. Raises ValueError for what is neither a number nor a share."""
    given = int(given) if isinstance(given, str) and given.isdecimal() else given
    if type(given) is int and given > 0 or re.fullmatch(r"[1-9]\d?(\.\d+)?%", str(given)):
        return given
    raise ValueError("give a number of tokens, or a share of them such as 30%")


Tokens = Annotated[int | str, BeforeValidator(tokens, json_schema_input_type=int | str)]


class Training(Strict):
    epochs: Annotated[int, Field(gt=0, strict=True)] = 16
    """Over the calibration data, for each layer."""
    rates: NonEmpty[Annotated[float, Field(gt=0, lt=1, strict=True)]] = [4e-3, 2e-3, 1e-3, 5e-4, 2e-4]
    """Adam's learning rates: the first layer tries them in this order until one gains less than another; each other
    layer takes the best of the layer before, or the last where that gained nothing."""


class Method(Strict):
    score: Annotated[str, AfterValidator(usable), Field(json_schema_extra={"anyOf": [{"enum": scores.BUILT_IN}, {}]})]
    """File of scripts/pruning/methods/scores, or an entry point `pruning.scores` of an installed package."""
    options: dict[str, Any] = {}
    """Keyword arguments of the score."""
    normalise: Literal[tuple(NORMALISATIONS)] = "none"
    """Within a layer, before layers compete."""
    allocate: Literal[ALLOCATIONS] = "uniform"
    """File of scripts/pruning/methods/allocation: neurons each layer keeps."""
    allocate_options: dict[str, Any] = {}
    """Keyword arguments of the allocation: for `sensitivity`, `joint` and `sensitivity_joint`, `per: prefill`, `decode`
    or `flops`, to keep to a speed and not to a number of parameters."""
    compensate: Literal["none", *choices("methods/compensation")] = "none"
    """`none` or a file of scripts/pruning/methods/compensation."""
    training: Annotated[Training, Field(exclude_if=lambda value: value == Training())] = Training()
    """How `compensate: ridge_block` trains."""
    min_keep: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Least fraction of a layer that is kept, at least one neuron."""
    drop_layers: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """A layer's FFN may lose all of its neurons, and with `allocate: joint` or `sensitivity_joint` its attention all of
    its key-value groups: in place of `min_keep`."""
    round_to: Positive = 1
    """Intermediate sizes are multiples of this (128 suits GPUs)."""
    export: Literal["exact", "pad"] = "exact"
    """`pad` zero-pads to the widest layer, so that stock tools load non-uniform widths."""
    vocabulary: Annotated[Tokens | None, Field(exclude_if=lambda value: value is None)] = None
    """Tokens that are kept, a number or a share of the embedding's rows such as 30%: bytes, special tokens, those of
    the calibration data, then by merge rank; null: all. For byte-level BPE tokenizers."""
    shuffle: int | None = None
    """Seed to shuffle scores within each layer: the same widths, other neurons."""

    def check(self) -> None:
        per = latency_table.per_of(self.allocate_options)
        if per != latency_table.PARAMETERS and not allocation.keeps_to_speed(self.allocate):
            can = ", ".join(name for name in ALLOCATIONS if allocation.keeps_to_speed(name))
            raise ValueError(f"allocate_options: per: {per} is not for {self.allocate!r}, but for: {can}")
        scheme = allocation.plugin(self.allocate).widths
        taking = {"options": scores.plugin(self.score).score, "allocate_options": scheme}
        for key, function in taking.items():
            known(key, given := getattr(self, key), keywords(function, given))
        if self.drop_layers and self.min_keep != type(self).model_fields["min_keep"].default:
            some = f"min_keep: {self.min_keep} some of each"
            raise ValueError(f"drop_layers: true keeps nothing of a layer, {some}: give one of them")
        if self.others and self.export == "pad":
            what = f"prunes {self.others}, which stock tools expect whole"
            raise ValueError(f"allocate: {self.allocate} {what}: use `export: exact`")
        if compensation.trains(self.compensate) and self.export == "pad":
            raise ValueError(f"compensate: {self.compensate} cannot be padded: use `export: exact`")
        if self.training != Training() and not compensation.trains(self.compensate):
            raise ValueError(f"training: only for `compensate: ridge_block`, not {self.compensate}")
        if self.others and not scores.plugin(self.score).channels:
            can = ", ".join(name for name in scores.BUILT_IN if scores.plugin(name).channels)
            what = f"scores {self.others} as well, which score {self.score!r} cannot"
            raise ValueError(f"allocate: {self.allocate} {what}; those that can: {can}")

    def prefixed(self, prefix: str) -> "Method":
        """With the changes of PREFIXES; how it trains is kept where it still does."""
        changes = PREFIXES[prefix]
        if "compensate" in changes and not compensation.trains(changes["compensate"]):
            changes = {**changes, "training": Training()}
        return self.model_copy(update=changes)

    @property
    def objective(self) -> str | None:
        """Whose gradient it is made of; None for one without."""
        usual = scores.plugin(self.score).objective
        return self.options.get("objective", usual) if usual else None

    @property
    def uneven(self) -> bool:
        """Whether layers of its models may have different widths: rounding is spread over layers as well."""
        return self.export != "pad" and (self.allocate != "uniform" or self.round_to > 1)

    @property
    def others(self) -> str:
        """The structures that it cuts beside FFN neurons, in words; empty for none."""
        return " and ".join(f"`{name}`" for name in allocation.structures_of(self.allocate)[1:])

    @property
    def least(self) -> dict[str, Any]:
        """What of a layer stays, as a stage's settings have it."""
        return {"drop_layers": True} if self.drop_layers else {"min_keep": self.min_keep}
