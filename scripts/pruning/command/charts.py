"""The charts of the page to decide by, in Vega-Lite."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from pruning.command.decision import Measure
from pruning.command.words import HEADS, SHARES, Content, columns, line, name, size_unit, titled
from pruning.core.names import DENSE

ROWS = "rows"  # what a chart calls its data
SHAPES = (
    "M-.9,0A.9,.9 0 1,1 .9,0A.9,.9 0 1,1 -.9,0Z",
    "M-.8,-.8H.8V.8H-.8Z",
    "M0,-1L.95,.75H-.95Z",
    "M0,1L-.95,-.75H.95Z",
    "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "M-1,0L0,-.95V.95Z",
    "M1,0L0,.95V-.95Z",
)
COLOURS = 8  # --c0 to --c7 of the template
"""SVG paths of markers, between -1 and 1, and how many colours: 56 pairs, because 7 and 8 have no common divisor."""
WIDE = 20  # the greatest value over the smallest, above which an axis is logarithmic


def methods(content: Content) -> list[str]:
    """Return the methods of the pruned models, in the table's order, which gives each its colour and marker."""
    return list(dict.fromkeys(variant.method for variant in content.models["variant"] if variant != DENSE))


def front(places: Sequence[tuple[float, float]]) -> list[bool]:
    """Return of each point whether no other is at least as good in both numbers, of which less is better."""
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in places) for x, y in places]


def points(content: Content, measure: Measure, cost: str) -> list[dict[str, Any]]:
    """Return what a panel draws: place, intervals and words of every model whose two numbers are finite."""
    found, places, heads = [], [], columns(content)
    unit, each = 100 if measure.unit in SHARES else 1, size_unit(content.dense["bytes"])[1] if cost == "bytes" else 1
    for row in content.models.to_dict("records"):
        if not math.isfinite(row[measure.key]) or not math.isfinite(row[cost]):
            continue
        variant, words = row["variant"], dict(zip(heads, line(content, row), strict=True))
        own = {"x": row[cost] / each, "y": unit * row[measure.key], "method": variant.method}
        own |= {f"y_{end}": unit * row[f"{measure.key}_{end}"] for end in ("low", "high")}
        own |= {f"x_{end}": row.get(f"{cost}_{end}", math.nan) / each for end in ("low", "high")}
        own |= {"name": name(variant), "label": name(variant).removeprefix(f"{variant.method}, ")}
        said = {"quality": titled(measure), "cost": HEADS[cost]}
        own |= {key: " ".join(filter(None, words[head])) for key, head in said.items()}
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
    y = alt.Y("y:Q", title=None, scale=down, axis=alt.Axis(format="~s" if wide else "~r", tickCount=5))
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
    """Return an Altair map of the share of units that each layer keeps, a row per model, and its rows of data."""
    import altair as alt  # slow

    pruned = {variant: widths for variant, widths in content.widths.items() if variant != DENSE}
    rows = [
        {"name": name(variant), "layer": layer, "share": kept / whole, "kept": f"{kept:,} of {whole:,}"}
        for variant, widths in pruned.items()
        for layer, (kept, whole) in enumerate(zip(widths, content.widths[DENSE], strict=True))
    ]
    ends = [math.floor(10 * min([0.9, *(row["share"] for row in rows)])) / 10, 1]
    legend = alt.Legend(title="Share kept", format="%", orient="bottom", gradientLength=160, values=ends)
    layers = alt.Axis(labelOverlap="greedy", labelSeparation=6, labelAngle=0)
    told = {"name:N": "Model", "layer:O": "Layer", "kept:N": f"{content.units} kept"}
    drawn = alt.Chart(alt.NamedData(name=ROWS), width="container", height=18 * len(pruned))
    drawn = drawn.mark_rect(style="cell").encode(
        x=alt.X("layer:O", title="Layer", axis=layers),
        y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=170)),
        color=alt.Color("share:Q", scale=alt.Scale(domain=ends, range="ramp"), legend=legend),
        tooltip=[
            *(alt.Tooltip(key, title=title) for key, title in told.items()),
            alt.Tooltip("share:Q", title="Share", format=".1%"),
        ],
    )
    return drawn.properties(description=f"{content.units} kept per layer, {len(pruned)} models"), rows


def specifications(content: Content) -> dict[str, dict[str, Any]]:
    """Return all charts in Vega-Lite by their place on the page: `{measure}/{cost}`, and `widths`.

    Altair's own check would take most of the time: a test makes it."""
    made = {f"{measure.key}/{cost}": panel(content, measure, cost) for measure in content.measures for cost in HEADS}
    made["widths"] = widths_map(content)
    return {key: {**chart.to_dict(validate=False), "datasets": {ROWS: rows}} for key, (chart, rows) in made.items()}


@cache
def library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes for."""
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return vl_convert.javascript_bundle(vl_version=version).replace("</script", "<\\/script")
