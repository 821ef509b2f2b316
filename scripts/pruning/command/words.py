"""What the page to decide by says: its numbers, sentences and table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from pruning.command.configuration import BYTES
from pruning.command.decision import OF_TEXT, TIMES, Choice, Measure
from pruning.config.budgets import TIMED
from pruning.core.limits import MOST_CUT_OFF
from pruning.core.names import DENSE, Variant

SIGNIFICANT = 0.05
SHARES = ("%", "share")  # units of measures whose values are fractions, which are shown in per cent
HEADS = {"bytes": "Weights", "prefill": "Prefill", "decode": "Decoding"}
"""Costs, columns of decision.rows, and their heads in the table."""
NO_ANSWERS = "Perplexity is not accuracy: before you rely on the model, ask it what you will ask it."
SAME = "about as fast"


class Against(NamedTuple):
    """The model to take and what is not pruned as GGUF files, compared at equal bytes."""

    wins: bool
    """Whether the model to take is, in some type, not significantly worse than the best dense file that is not
    larger."""
    by: str  # what that is judged by
    said: str
    heads: list[str]
    lines: list[list[str]]


@dataclass(frozen=True)
class Content:
    """What a page says."""

    model: str  # as the user calls it
    models: pd.DataFrame  # decision.rows
    measures: Sequence[Measure]
    choice: Choice
    tolerance: float
    folder: str  # of the model to take
    vocabulary: int  # words that the model chooses from, what guessing has as its perplexity
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # method -> what scripts/budget.py found
    notes: Sequence[str] = ()  # what efforts.py says
    units: str = "FFN neurons"  # that sparsity counts
    widths: Mapping[Variant, Sequence[int]] = field(default_factory=dict)  # kept units per layer, the dense model's too
    examples: Sequence[Mapping[str, Any]] = ()  # decision.examples
    outcomes: Mapping[str, int] = field(default_factory=dict)  # decision.outcomes, of all answers
    stages: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["stage", "jobs", "total_s", "share"]))
    recipes: Mapping[str, str] = field(default_factory=dict)  # method -> what it does, as far as that is known
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)  # of the user's data: how many records
    against: Mapping[str, Against] = field(default_factory=dict)  # what may be taken instead -> `against`

    @property
    def dense(self) -> pd.Series:
        """The dense model's row."""
        return self.models.iloc[0]

    @property
    def text(self) -> str:
        """What is measured of texts, by which models are chosen, in words."""
        title = next((measure.title.lower() for measure in self.measures if measure.key in OF_TEXT), "perplexity")
        return title.replace("bits per byte", f"perplexity of {BYTES} bytes")  # decision.above

    @property
    def taken(self) -> pd.Series:
        """The row of the model to take."""
        return self.models[self.models["variant"] == self.choice.variant].iloc[0]


# Numbers --------------------------------------------------------------------------------------------------------------


def name(variant: Variant, between: str = ", ") -> str:
    """Return what a page calls a model."""
    if variant == DENSE:
        return "dense"
    return f"{variant.method}{between}{variant.sparsity}%" + (", recovered" if variant.tuning else "")


def size_unit(dense: float) -> tuple[str, float]:
    """Return the unit of all sizes on a page, and its bytes. dense: the dense model's bytes."""
    return ("GB", 1e9) if dense >= 2e9 else ("MB", 1e6)


def size(count: float, dense: float) -> str:
    """Return bytes in `size_unit`."""
    unit, divisor = size_unit(dense)
    return f"{count / divisor:,.{2 if unit == 'GB' else 1}f} {unit}"


def value(measure: Measure, amount: float) -> str:
    """Return a measure's value without its unit, but in per cent where it is a share; a dash for NaN."""
    if not math.isfinite(amount):
        return "–" if math.isnan(amount) else "∞"
    if measure.unit in SHARES:
        return f"{100 * amount:.1f}%"
    if amount == 0:
        return "0"
    digits = next((digits for digits, least in enumerate((1000, 100, 2)) if abs(amount) >= least), 3)
    return f"{amount:,.{digits}f}"


def interval(measure: Measure, row: Mapping[str, Any]) -> str:
    """Return a measure's interval in brackets; empty where there is none."""
    low, high = row[f"{measure.key}_low"], row[f"{measure.key}_high"]
    return "" if math.isnan(low) or math.isnan(high) else f"[{value(measure, low)}, {value(measure, high)}]"


def mark(measure: Measure, row: Mapping[str, Any]) -> str:
    """Return `n.s.` where a measure does not differ significantly from the dense model's."""
    return "n.s." if row[f"{measure.key}_p"] >= SIGNIFICANT else ""


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def titled(measure: Measure) -> str:
    """Return a measure's title with its unit."""
    return capital(measure.title if measure.unit in ("", *SHARES) else f"{measure.title} ({measure.unit})")


def above(share: float) -> str:
    """Return how far a number is from the dense model's, as a share of that."""
    return f"{share:+.1%}" if share < 10 else f"{1 + share:,.0f} times as high"


def times(factor: float) -> str:
    return "–" if math.isnan(factor) else f"{factor:.2f}×"


def minutes(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def pace(row: Mapping[str, Any], part: str) -> str:
    """Return in words how fast a model is at a part of its work, against the dense one."""
    apart = row[f"{part}_low"] > 1 or row[f"{part}_high"] < 1
    return f"{row[part]:.2f} times as fast" if apart else SAME


def smaller(share: float) -> str:
    """Return in words what a share of the dense model's bytes is."""
    return f"{1 - share:.0%} smaller" if share < 0.995 else "no smaller"


# Words ----------------------------------------------------------------------------------------------------------------


def headline(content: Content) -> str:
    """Return the verdict in a few words."""
    if warning(content):
        return "No verdict: the dense model does not know this text"
    if better := [instead for instead, found in content.against.items() if not found.wins]:
        return f"Do not prune: take {better[0]}"
    if content.choice.within:
        return f"Take {name(content.choice.variant, ' at ')}"
    return "Do not prune to this budget" if content.budgets else "Do not prune"


def verdict(content: Content) -> list[str]:
    """Return sentences: why this model, what it costs and gains on the test data, and where its answers do not end."""
    choice, dense, taken = content.choice, content.dense, content.taken
    limit = f"{100 * content.tolerance:g}% above the dense model's"
    held, this = f"{content.text} on the validation data", f"{name(choice.variant)} ({above(choice.loss)})"
    if content.budgets and choice.within:
        why = f"Of the models that meet the budget it is the best, and its {held} is at most {limit} "
        why += f"({above(choice.loss)})."
    elif content.budgets:
        why = f"The {held} of every model that meets the budget is more than {limit}. The best is {this}."
    elif choice.within:
        why = f"It is the smallest model whose {held} is at most {limit} ({above(choice.loss)})."
    else:
        why = f"Every pruned model's {held} is more than {limit}. The nearest is {this}."
    share = taken["bytes"] / dense["bytes"]
    sizes = f"{size(taken['bytes'], dense['bytes'])} in place of {size(dense['bytes'], dense['bytes'])}"
    reads, writes = pace(taken, "prefill"), pace(taken, "decode")
    paces = f"reads and writes {SAME}" if reads == writes == SAME else f"reads a prompt {reads} and writes {writes}"
    removed = 100 * taken["removed"]  # not what was asked, where units are few
    removed = choice.variant.sparsity if abs(removed - choice.variant.sparsity) < 0.5 else round(removed)
    gains = f"With {removed}% of the {content.units} removed it is {smaller(share)} ({sizes}), {paces}"
    quality = [
        f"{measure.title.lower()} {value(measure, taken[measure.key])} against {value(measure, dense[measure.key])}"
        for measure in content.measures
        if measure.key in (*OF_TEXT, "answers") and not math.isnan(taken[measure.key])
    ]
    said = [why, f"{gains}. On the test data it has {' and '.join(quality)}." if quality else f"{gains}."]
    if "answers" in taken and taken["answers"] < dense["answers"] and taken["answers_p"] < SIGNIFICANT:
        lost = f"Mind: right answers are lost, and not by chance (p = {taken['answers_p']:.1g}, after Holm)"
        said.append(f"{lost}, which {content.text} does not show. Where they matter, take a model that is pruned less.")
    for measure in content.measures:
        if measure.key != "cut_off":
            continue
        its, before = (value(measure, row["cut_off"]) for row in (taken, dense))
        if dense["cut_off"] > MOST_CUT_OFF:
            brief = "so right answers measure brevity as well"
            said.append(f"Mind: {before} of the dense model's answers are cut off, {brief}.")
        if taken["cut_off_low"] > dense["cut_off_high"]:
            ending = "reach the limit or run into a loop"
            said.append(f"Mind: {its} of its answers {ending}, of the dense model's {before}.")
    return said


def amount(kind: str, cost: float) -> str:
    """Return a cost as a budget names it, in words."""
    if kind == "parameters":
        return f"{cost:,.0f} parameters"
    if kind == "bytes":
        return f"{cost / 1e6:,.2f} MB of weights"
    return f"{cost:.3g} ms {'of prefill' if kind == 'prefill_ms' else 'a token'}"


def budget_words(budgets: Mapping[str, Mapping[str, Any]], units: str) -> tuple[str, list[str]]:
    """Return how the sparsities came about: what was asked for, and what each method came to; "" without a budget."""
    if not budgets:
        return "", []
    kind, asked, most, dense = (next(iter(budgets.values()))[key] for key in ("kind", "asked", "target", "dense"))
    asked = f"The budget is {amount(kind, most)} ({kind}={asked}; the dense model: {amount(kind, dense)}). Each method "
    asked += f"removes the least, in whole per cent of the {units}, that meets it: they are compared at equal cost."
    if kind in TIMED:
        asked += " Times were measured in turn with the dense model; their whole interval is within the budget."
    lines = []
    for method, found in budgets.items():
        cost = found["cost"]
        between = f" [{cost['low']:.3g}, {cost['high']:.3g}]" if cost["low"] < cost["high"] else ""
        share = f"{cost['value'] / found['dense']:.0%} of dense"
        lines.append(f"{method}: {found['sparsity']}%, {amount(kind, cost['value'])}{between}, {share}")
    return asked, lines


def warning(content: Content) -> str:
    """Return what is wrong where there is nothing that pruning could spoil; else nothing."""
    dense = content.dense.get("perplexity", 0)
    if dense < content.vocabulary:
        return ""
    return (
        f"The dense model does not know this text: its perplexity is {dense:,.0f}, that of guessing among its "
        f"{content.vocabulary:,} words {content.vocabulary:,}. No comparison below means anything: look whether the "
        "weights are whole, and whether the data are in the form that the model was made for."
    )


def table_notes(content: Content) -> list[str]:
    """Return the notes below the table that both pages have."""
    choice = content.choice
    tested = any(content.models[f"{measure.key}_p"].notna().any() for measure in content.measures)
    marked = "n.s.: not significantly different from the dense model (paired test, p ≥ 0.05 after Holm)."
    return [
        f"Validation: {content.text} above the dense model's on the validation data, by which the model was chosen; "
        "other columns are of the test data. Speeds are measured here, in turn with the dense model.",
        *([marked] if tested else []),
        f"{name(choice.variant)} has {content.text} {above(choice.loss)} on the validation data, "
        f"{above(content.taken['test_loss'])} on the test data.",
        "✓: every model that is better is clearly larger or slower than this one.",
        *content.notes,
        *([] if "answers" in content.models else [NO_ANSWERS]),
    ]


def columns(content: Content) -> list[str]:
    """Return the heads of the table."""
    return ["Model", *map(titled, content.measures), "Validation", *HEADS.values(), "Front"]


def line(content: Content, row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a row of the table: value, interval and mark of each cell, as `columns`."""
    cells = [(name(row["variant"]), "", "")]
    for measure in content.measures:
        cells.append((value(measure, row[measure.key]), interval(measure, row), mark(measure, row)))
    share = row["bytes"] / content.dense["bytes"]
    cells += [("–" if row["variant"] == DENSE else above(row["loss"]), "", "")]
    cells += [(size(row["bytes"], content.dense["bytes"]), f"({share:.0%})", "")]
    for part in TIMES:
        low, high = row[f"{part}_low"], row[f"{part}_high"]
        cells.append((times(row[part]), f"[{low:.2f}, {high:.2f}]" if low < high else "", ""))
    return [*cells, ("✓" if row["front"] else "", "", "")]
