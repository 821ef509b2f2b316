"""The page to decide by: HTML for a browser and Markdown for a terminal, of the same numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import pandas as pd

from pruning.command.decision import Choice, Measure
from pruning.command.record import Example
from pruning.config.budgets import TIMED
from pruning.core import names
from pruning.core.names import DENSE, Variant
from pruning.report import site

TEMPLATE = names.HOME / "report/decision.html.j2"
ROWS = "rows"  # what a chart calls its data
SIGNIFICANT = 0.05
SHARES = ("%", "share")
"""Units of measures whose values are fractions, which are shown in per cent."""
HEADS = {"bytes": "Weights", "prefill": "Prefill", "decode": "Decoding"}
"""Costs, columns of decision.rows, and their heads in the table."""
SHAPES = (
    "M-.9,0A.9,.9 0 1,1 .9,0A.9,.9 0 1,1 -.9,0Z",
    "M-.8,-.8H.8V.8H-.8Z",
    "M0,-1L.95,.75H-.95Z",
    "M0,1L-.95,-.75H.95Z",
    "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "M-1,0L0,-.95V.95Z",
    "M1,0L0,.95V-.95Z",
)
"""SVG paths of markers, between -1 and 1; with COLOURS 56 pairs, because 7 and 8 have no common divisor."""
COLOURS = 8  # --c0 to --c7 of the template
USES = {
    "train": "calibration: what each neuron is measured on, and what recovery trains on",
    "validation": "all choices: which model to take",
    "test": "all quality shown on this page",
}
NO_ANSWERS = "Perplexity is not accuracy: before you rely on the model, ask it what you will ask it."
SAME = "about as fast"
WIDE = 20  # the greatest value over the smallest, above which an axis is logarithmic


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
    widths: Mapping[Variant, Sequence[int]] = field(default_factory=dict)  # kept neurons of each layer
    full: Sequence[int] = ()  # the dense model's
    examples: Sequence[Example] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)  # record.outcomes, of all answers
    stages: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["stage", "jobs", "total_s", "share"]))
    recipes: Mapping[str, str] = field(default_factory=dict)  # method -> what it does, as far as that is known
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)  # of the user's data: how many records

    @property
    def dense(self) -> pd.Series:
        """The dense model's row."""
        return self.models.iloc[0]

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
    digits = next((digits for digits, least in enumerate((1000, 100, 1)) if abs(amount) >= least), 3)
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
    if content.choice.within:
        return f"Take {name(content.choice.variant, ' at ')}"
    return "Do not prune to this budget" if content.budgets else "Do not prune"


def verdict(content: Content) -> list[str]:
    """Return two sentences: why this model, and what it costs and gains on the test data."""
    choice, dense, taken = content.choice, content.dense, content.taken
    limit = f"{content.tolerance:.0%} above the dense model's"
    held, this = "perplexity on the validation data", f"{name(choice.variant)} ({above(choice.loss)})"
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
    gains = f"With {choice.variant.sparsity}% of the FFN neurons removed it is {smaller(share)} ({sizes}), {paces}"
    quality = [
        f"{measure.title.lower()} {value(measure, taken[measure.key])} against {value(measure, dense[measure.key])}"
        for measure in content.measures
        if measure.key in ("perplexity", "answers") and not math.isnan(taken[measure.key])
    ]
    return [why, f"{gains}. On the test data it has {' and '.join(quality)}." if quality else f"{gains}."]


def amount(kind: str, cost: float) -> str:
    """Return a cost as a budget names it, in words."""
    if kind == "parameters":
        return f"{cost:,.0f} parameters"
    if kind == "bytes":
        return f"{cost / 1e6:,.2f} MB of weights"
    return f"{cost:.3g} ms {'of prefill' if kind == 'prefill_ms' else 'a token'}"


def budget_words(budgets: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return how the sparsities came about: what was asked for, and what each method came to."""
    kind, asked, most, dense = (next(iter(budgets.values()))[key] for key in ("kind", "asked", "target", "dense"))
    asked = f"The budget is {amount(kind, most)} ({kind}={asked}; the dense model: {amount(kind, dense)}). Each method "
    asked += "removes the least, in whole per cent of the FFN neurons, that meets it: they are compared at equal cost."
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
    dense = content.dense["perplexity"]
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
    return [
        "Validation: perplexity above the dense model's on the validation data, by which the model was chosen; other "
        "columns are of the test data. Speeds are measured here, in turn with the dense model.",
        *["n.s.: not significantly different from the dense model (paired test, p ≥ 0.05 after Holm)."][: int(tested)],
        f"{name(choice.variant)} has perplexity {above(choice.loss)} on the validation data, "
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
    for part in ("prefill", "decode"):
        low, high = row[f"{part}_low"], row[f"{part}_high"]
        cells.append((times(row[part]), f"[{low:.2f}, {high:.2f}]" if low < high else "", ""))
    return [*cells, ("✓" if row["front"] else "", "", "")]


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


# Charts ---------------------------------------------------------------------------------------------------------------


def methods(content: Content) -> list[str]:
    """Return the methods of the pruned models, in the table's order, which gives each its colour and marker."""
    return list(dict.fromkeys(variant.method for variant in content.models["variant"] if variant != DENSE))


def front(places: Sequence[tuple[float, float]]) -> list[bool]:
    """Return of each point whether no other is at least as good in both numbers, of which less is better."""
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in places) for x, y in places]


def points(content: Content, measure: Measure, cost: str) -> list[dict[str, Any]]:
    """Return what a panel draws: place, intervals and words of every model whose two numbers are finite."""
    found, places, heads = [], [], columns(content)
    unit, each = (
        (100 if measure.unit in SHARES else 1),
        (size_unit(content.dense["bytes"])[1] if cost == "bytes" else 1),
    )
    for row in content.models.to_dict("records"):
        if not math.isfinite(row[measure.key]) or not math.isfinite(row[cost]):
            continue
        variant, words = row["variant"], dict(zip(heads, line(content, row), strict=True))
        own = {"x": row[cost] / each, "y": unit * row[measure.key], "method": variant.method}
        own |= {f"y_{end}": unit * row[f"{measure.key}_{end}"] for end in ("low", "high")}
        own |= {f"x_{end}": row.get(f"{cost}_{end}", math.nan) / each for end in ("low", "high")}
        own |= {"name": name(variant), "label": name(variant).removeprefix(f"{variant.method}, ")}
        own |= {
            "quality": " ".join(filter(None, words[titled(measure)])),
            "cost": " ".join(filter(None, words[HEADS[cost]])),
        }
        own |= {"series": f"{variant.method} {variant.tuning}", "taken": variant == content.choice.variant}
        found.append({key: None if isinstance(it, float) and not math.isfinite(it) else it for key, it in own.items()})
        places.append((own["x"] * (1 if cost == "bytes" else -1), own["y"] * (1 if measure.better == "lower" else -1)))
    for point, best in zip(found, front(places), strict=True):
        point |= {"front": best, "kind": "dense" if point["label"] == "dense" else "best" if best else "behind"}
    return found


def panel(content: Content, measure: Measure, cost: str) -> tuple[Any, list[dict[str, Any]]]:
    """Return an Altair plot of a measure against a cost (HEADS), and its rows. Colours and sizes are the template's."""
    import altair as alt  # slow

    rows = points(content, measure, cost)
    positive = [row["y"] for row in rows if row["y"] > 0]
    wide = bool(positive) and max(positive) > WIDE * min(positive)
    if wide:  # a logarithm has no place for the dense model's divergence of 0
        rows = [row for row in rows if row["y"] > 0]
        rows = [row | {"y_low": None} if (row["y_low"] or 0) <= 0 else row for row in rows]
    down = alt.Scale(type="log", padding=12) if wide else alt.Scale(zero=False, nice=False, padding=12)
    places = [row["x"] for row in rows] or [1]  # neither a clock's widest interval nor its noise rules the axis
    middle, half = (max(places) + min(places)) / 2, (max(places) - min(places)) / 2
    ends = [middle - max(half, middle / 20), middle + max(half, middle / 20)]
    across = alt.Scale(domain=ends, nice=False, padding=32)
    x = alt.X("x:Q", title=axis_title(content, cost), scale=across, axis=alt.Axis(tickCount=5))
    y = alt.Y("y:Q", title=None, scale=down, axis=alt.Axis(format="~s" if wide else "~g", tickCount=5))
    known = methods(content)
    shapes = [SHAPES[number % len(SHAPES)] for number in range(len(known))]
    shape = alt.Shape("method:N", scale=alt.Scale(domain=known, range=shapes), legend=None)
    color = alt.Color("method:N", scale=alt.Scale(domain=known, range="category"), legend=None)
    words = {"name": "Model", "quality": titled(measure), "cost": HEADS[cost]}
    tooltip = [alt.Tooltip(f"{key}:N", title=title) for key, title in words.items()]
    chart, layers = alt.Chart(alt.NamedData(name=ROWS)).encode(x=x, y=y), []

    def add(style: str, mark: str, test: str, **encoding: Any) -> None:
        drawn = getattr(chart.transform_filter(test), f"mark_{mark}")(style=style, clip=style == "interval")
        layers.append(drawn.encode(**encoding))

    kinds = {row["kind"] for row in rows}
    add("front", "line", "datum.front", order="x:Q")
    add("series", "line", "datum.kind != 'dense'", color=color, detail="series:N", order="x:Q")
    for axis in ("x", "y"):
        if any(row[f"{axis}_low"] is not None for row in rows):
            ends = {axis: f"{axis}_low:Q", f"{axis}2": f"{axis}_high:Q"}
            add("interval", "rule", f"isValid(datum.{axis}_low)", **ends)
    add("taken", "point", "datum.taken")
    for kind in [kind for kind in ("behind", "best") if kind in kinds]:
        add(kind, "point", f"datum.kind == '{kind}'", color=color, shape=shape, tooltip=tooltip)
    add("dense", "point", "datum.kind == 'dense'", tooltip=tooltip)
    add("label", "text", "datum.front || datum.taken", text="label:N")
    arrow = "↓" if measure.better == "lower" else "↑"
    drawn = alt.layer(*layers).properties(width="container", height=230, title=f"{titled(measure)} {arrow}")
    said = f"{titled(measure)} against {HEADS[cost].lower()}, {len(rows)} models"
    return drawn.properties(description=said), rows


def axis_title(content: Content, cost: str) -> str:
    """Return the title of a cost's axis; its arrow points to what is better."""
    if cost == "bytes":
        return f"← weights, {size_unit(content.dense['bytes'])[0]}"
    return f"{HEADS[cost].lower()} speed, × dense →"


def widths_map(content: Content) -> tuple[Any, list[dict[str, Any]]]:
    """Return an Altair map of the share of neurons that each layer keeps, a row per model, and its rows of data."""
    import altair as alt  # slow

    rows = [
        {"name": name(variant), "layer": layer, "share": kept / whole, "kept": f"{kept:,} of {whole:,}"}
        for variant, widths in content.widths.items()
        for layer, (kept, whole) in enumerate(zip(widths, content.full, strict=True))
    ]
    least = min([0.9, *(row["share"] for row in rows)])
    ends = [math.floor(10 * least) / 10, 1]
    scale = alt.Scale(domain=ends, range="ramp")
    legend = alt.Legend(title="Share kept", format="%", orient="bottom", gradientLength=160, values=ends)
    tooltip = [alt.Tooltip("name:N", title="Model"), alt.Tooltip("layer:O", title="Layer")]
    tooltip += [alt.Tooltip("kept:N", title="Neurons kept"), alt.Tooltip("share:Q", title="Share", format=".1%")]
    drawn = alt.Chart(alt.NamedData(name=ROWS), width="container", height=18 * len(content.widths))
    layers = alt.Axis(labelOverlap="greedy", labelSeparation=6, labelAngle=0)
    drawn = drawn.mark_rect(style="cell").encode(
        x=alt.X("layer:O", title="Layer", axis=layers),
        y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=130)),
        color=alt.Color("share:Q", scale=scale, legend=legend),
        tooltip=tooltip,
    )
    return drawn.properties(description=f"Neurons kept per layer, {len(content.widths)} models"), rows


def specifications(content: Content) -> dict[str, dict[str, Any]]:
    """Return all charts in Vega-Lite by their place on the page: `{measure}/{cost}`, and `widths` where there are any.

    Altair's own check would take most of the time: a test makes it."""
    made = {f"{measure.key}/{cost}": panel(content, measure, cost) for measure in content.measures for cost in HEADS}
    made |= {"widths": widths_map(content)} if content.widths else {}
    return {key: {**chart.to_dict(validate=False), "datasets": {ROWS: rows}} for key, (chart, rows) in made.items()}


@cache
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes for."""
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return vl_convert.javascript_bundle(vl_version=version).replace("</script", "<\\/script")


# The page -------------------------------------------------------------------------------------------------------------


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
    return site.text(
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
