"""The page to decide by: HTML for a browser and Markdown for a terminal, of the same numbers."""

import math
from typing import NamedTuple

from pruning.command.charts import SHAPES, library, methods, specifications
from pruning.command.words import (
    HEADS,
    SHARES,
    Content,
    above,
    budget_words,
    capital,
    columns,
    headline,
    line,
    minutes,
    name,
    size,
    table_notes,
    times,
    value,
    verdict,
    warning,
)
from pruning.core import names, templates

TEMPLATE = names.HOME / "report/decision.html.j2"
COLOURS = 8  # --c0 to --c7 of the template
USES = {
    "train": "calibration: what each neuron is measured on, and what recovery trains on",
    "validation": "all choices: which model to take",
    "test": "all quality shown on this page",
}


def markdown(content: Content) -> str:
    """Return the page for a terminal, whose columns have no place for units and intervals."""
    said = warning(content)
    asked, found = budget_words(content.budgets) if content.budgets else ("", [])
    lines = []
    for row in content.models.to_dict("records"):
        first, *rest = (" ".join(filter(None, (shown, mark))) for shown, _, mark in line(content, row))
        lines.append([f"**{first}**" if row["variant"] == content.choice.variant else first, *rest])
    heads = [head.partition(" (")[0] for head in columns(content)]
    table = [heads, ["---"] * len(heads), *lines]
    return "\n".join(
        [
            f"# {headline(content)}",
            "",
            *([f"**{said}**", ""] if said else []),
            f"{' '.join(verdict(content))} It lies in `{content.folder}`.",
            "",
            *([asked, "", *(f"* {each}" for each in found), ""] if asked else []),
            *(f"| {' | '.join(each)} |" for each in table),
            "",
            *(f"* {note}" for note in [*table_notes(content), "Intervals, plots and example answers: decision.html."]),
            "",
        ]
    )


class Tile(NamedTuple):
    """A number of the model to take beside the dense model's."""

    title: str
    value: str
    dense: str
    change: str


def tiles(content: Content) -> list[Tile]:
    """Return what the page opens with: quality, size, speed."""
    taken, dense, found = content.taken, content.dense, []
    for measure in content.measures:
        if math.isnan(taken[measure.key]):
            continue
        now, before = taken[measure.key], dense[measure.key]
        change = f"{100 * (now - before):+.1f} points" if measure.unit in SHARES else ""
        if measure.key == "perplexity":
            change = above(now / before - 1)
        found.append(Tile(capital(measure.title), value(measure, now), value(measure, before), change))
    share = taken["bytes"] / dense["bytes"]
    found.append(
        Tile("Weights", size(taken["bytes"], dense["bytes"]), size(dense["bytes"], dense["bytes"]), f"{share - 1:+.0%}")
    )
    for part in ("prefill", "decode"):
        found.append(Tile(f"{HEADS[part]} speed", times(taken[part]), times(1.0), f"{taken[part] - 1:+.0%}"))
    return found


def html(content: Content) -> str:
    """Return the page for a browser, which needs no other file and no network."""
    legend = [
        (method, number % COLOURS, SHAPES[number % len(SHAPES)]) for number, method in enumerate(methods(content))
    ]
    rows = content.models.to_dict("records")
    asked, found = budget_words(content.budgets) if content.budgets else ("", [])
    return templates.page(
        TEMPLATE,
        content=content,
        name=name,
        headline=headline(content),
        verdict=verdict(content),
        warning=warning(content),
        budget=asked,
        budgets=found,
        tiles=tiles(content),
        capital=capital,
        costs=list(HEADS),
        legend=legend,
        heads=columns(content),
        lines=[(row["variant"] == content.choice.variant, line(content, row)) for row in rows],
        notes=[*table_notes(content), "Brackets: 95% intervals over the choice of test text."],
        minutes=minutes,
        uses=USES,
        charts=specifications(content),
        library=library(),
    )
