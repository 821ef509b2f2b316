"""Budgets: what a pruned model may cost at most, from which its sparsity follows (docs/howto/budget.md); and how the
speed is measured that allocations may keep to."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pruning.config.base import Positive, Strict

TIME = {"": 1.0, "ms": 1.0}
UNITS: dict[str, dict[str, float]] = {
    "parameters": {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9},
    "bytes": {"": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "prefill_ms": TIME,
    "decode_ms": TIME,
}
"""Kinds of budgets, and what an amount of each may be given in."""
TIMED = ("prefill_ms", "decode_ms")


@dataclass(frozen=True)
class Amount:
    value: float
    share: bool  # whether it is a share of the dense model's (0.7), not in units


def amount(kind: str, text: str) -> Amount:
    """As 1.2B, 900MB, 12.5, or 70%. Raises ValueError for what is none."""
    found = re.fullmatch(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z%]*)\s*", text)
    if not found:
        raise ValueError(f"{kind}: {text!r} is not an amount; give a number with a unit, or a share of dense: 70%")
    number, unit = float(found[1]), found[2]
    if unit != "%" and unit not in UNITS[kind]:
        known = ", ".join([unit for unit in UNITS[kind] if unit] + ["%"])
        raise ValueError(f"{kind}: unknown unit {unit!r} in {text!r}; known: {known}, or none")
    if number <= 0:
        raise ValueError(f"{kind}: {text!r} is not above zero")
    if unit == "%" and number >= 100:
        raise ValueError(f"{kind}: {text!r} of the dense model: nothing to prune; give less than 100%")
    return Amount(number / 100, True) if unit == "%" else Amount(number * UNITS[kind][unit], False)


def _text(given: Any) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ValueError("a number with a unit, or a share of the dense model's: 70%")
    return str(given)


Most = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | float)]


# What all that time models have alike.
PromptTokens = Annotated[Positive, Field(description="Tokens of the prompt whose prefill is timed.")]
OVER = "Tokens generated after that prompt, over which the time per token is averaged."
DecodeTokens = Annotated[Positive, Field(description=OVER)]
Warmup = Annotated[Positive, Field(description="Untimed repetitions before the timed ones.")]


class Budget(Strict):
    """One of the first four, a number or a share of the dense model's such as 70%."""

    parameters: Most | None = None
    """Most parameters (K, M, B)."""
    bytes: Most | None = None
    """Most bytes of weights on disk (kB, MB, GB, KiB, MiB, GiB), without the files' headers of some kB."""
    prefill_ms: Most | None = None
    """Most milliseconds for a prompt of `prompt_tokens`, measured here."""
    decode_ms: Most | None = None
    """Most milliseconds per token after that prompt, measured here."""
    prompt_tokens: Positive = 512
    """Tokens of the prompt of `prefill_ms` and `decode_ms`."""
    decode_tokens: Positive = 32
    """Tokens generated after the prompt, over which `decode_ms` is averaged."""
    rounds: Annotated[int, Field(ge=5)] = 15
    """Repetitions; each times a candidate and the dense model, in changing order."""
    warmup: Warmup = 1

    def check(self) -> None:
        if len(given := [kind for kind in UNITS if getattr(self, kind) is not None]) != 1:
            raise ValueError(f"give one of {', '.join(UNITS)}, not {' and '.join(given) or 'none'}")
        amount(self.kind, self.text)

    @property
    def kind(self) -> str:
        return next(kind for kind in UNITS if getattr(self, kind) is not None)

    @property
    def text(self) -> str:
        """As it was given."""
        return getattr(self, self.kind)

    @property
    def amount(self) -> Amount:
        return amount(self.kind, self.text)


class LatencyTable(Strict):
    """How fast models are that have so many units in every layer (docs/explanation/allocation.md)."""

    prompt_tokens: PromptTokens = 256
    decode_tokens: DecodeTokens = 8
    rounds: Annotated[int, Field(ge=5)] = 21
    """Repetitions; each times every model, in changing order. Too few give a noisy curve, and noisy widths."""
    warmup: Warmup = 1
