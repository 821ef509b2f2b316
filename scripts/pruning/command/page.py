"""The page to decide by: HTML for a browser and Markdown for a terminal, of the same numbers."""

import math

from pruning.command import charts, words
from pruning.command.decision import OF_TEXT, TIMES
from pruning.command.running import PAGE
from pruning.command.words import HEADS, Content
from pruning.core import names, templates
from pruning.core.templates import table

TEMPLATE = names.HOME / "report/decision.html.j2"
USES = {
    "train": "calibration: what each neuron is measured on, and what recovery trains on",
    "validation": "all choices: which model to take",
    "test": "all quality shown on this page",
}


def markdown(content: Content) -> str:
    """Return the page for a terminal, whose columns have no place for units and intervals."""
    warned, lines = words.warning(content), []
    asked, found = words.budget_words(content.budgets, content.units)
    for row in content.models.to_dict("records"):
        first, *rest = (" ".join(filter(None, (shown, mark))) for shown, _, mark in words.line(content, row))
        lines.append([f"**{first}**" if row["variant"] == content.choice.variant else first, *rest])
    heads = [head.partition(" (")[0] for head in words.columns(content)]
    more = "Intervals, plots and example answers" if content.examples else "Intervals and plots"
    notes = [*words.table_notes(content), f"{more}: {PAGE}."]
    parts = [
        f"# {words.headline(content)}\n",
        f"**{warned}**\n" if warned else "",
        f"{' '.join(words.verdict(content))} It lies in `{content.folder}`.\n",
        f"{asked}\n" if asked else "",
        "".join(f"* {each}\n" for each in found),
        table(heads, lines),
        "".join(f"* {note}\n" for note in notes),
    ]
    for instead, found in content.against.items():
        parts.append(f"## Or {instead}\n\nBy {found.by}: {found.said}\n\n{table(found.heads, found.lines)}")
    return "\n".join(filter(None, parts))


def tiles(content: Content) -> list[tuple[str, str, str, str]]:
    """Return what the page opens with, title, value, the dense model's, and change: quality, size, speed."""
    taken, dense, found = content.taken, content.dense, []
    for measure in content.measures:
        now, before = taken[measure.key], dense[measure.key]
        if math.isnan(now):
            continue
        change = f"{100 * (now - before):+.1f} points" if measure.unit in words.SHARES else ""
        change = words.above(now / before - 1) if measure.key in OF_TEXT else change
        found.append((words.capital(measure.title), *(words.value(measure, each) for each in (now, before)), change))
    now, before = taken["bytes"], dense["bytes"]
    found.append(("Weights", words.size(now, before), words.size(before, before), f"{now / before - 1:+.0%}"))
    for part in TIMES:
        speed = taken[part]
        found.append((f"{HEADS[part]} speed", words.times(speed), words.times(1.0), f"{speed - 1:+.0%}"))
    return found


def html(content: Content) -> str:
    """Return the page for a browser, which needs no other file and no network."""
    asked, found = words.budget_words(content.budgets, content.units)
    own = {"budget": asked, "budgets": found, "tiles": tiles(content), "uses": USES}
    return templates.page(TEMPLATE, content=content, words=words, charts=charts, **own)
