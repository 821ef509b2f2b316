"""Draw docs/figures/pipeline.svg from the rules: python docs/figures/pipeline.py.

A box is a file of rules/, an arrow an input: read from the jobs that TARGETS need of the default configuration. An
arrow is left out where a way of others leads there, unless one of its stages is optional.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parents[2]
MODEL, VARIANT = "results/tiny-reasoner", "gsm_symbolic-s0/wanda"
TARGETS = [
    "paper",
    f"{MODEL}/compact/gsm_symbolic-s0/best/50/manifest.json",
    f"{MODEL}/export/{VARIANT}/50/gguf/q8_0.gguf",
    f"{MODEL}/eval/{VARIANT}/50.q8_0/gsm_symbolic.json",
    f"{MODEL}/budget/{VARIANT}/four_fifths.json",
]
OPTIONAL = {"refit", "recover", "quantise"}
STAGES = {  # file of rules/: what it makes, and where its box is (in pixels, in rows)
    "data": ("datasets", 160, 0),
    "model": ("dense weights", 296, 0),
    "calibrate": ("statistics of neurons", 226, 1),
    "score": ("importance of neurons", 226, 2),
    "mask": ("which are kept", 226, 3),
    "refit": ("fitted weights", 84, 4),
    "compact": ("smaller model", 226, 5),
    "export": ("folder, GGUF", 54, 6),
    "quantise": ("GGUF types", 150, 6),
    "recover": ("LoRA adapter", 300, 6),
    "evaluate": ("answers, perplexity", 210, 7),
    "timing": ("speed", 380, 7),
    "analyse": ("overlap, collapse, …", 190, 8),
    "tables": ("CSV, Markdown", 318, 9),
    "figures": ("SVG, PNG", 186, 9),
    "pages": ("index.html", 66, 9),
}
STEP, HIGH = 56, 38


def arrows() -> set[tuple[str, str]]:
    """Return (stage, another that reads what it makes), of the workflow in a folder without results."""
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as empty:
        command = [sys.executable, ROOT / "tests/planned_jobs.py", file.name, "-n", "--quiet", "--cores", "1"]
        command += ["--directory", empty, *TARGETS]
        found = os.pathsep.join([f"{ROOT}/scripts", f"{ROOT}/scripts/pruning/core/plugins"])
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": found}, check=True, capture_output=True)
        jobs = json.loads(Path(file.name).read_text())
    stage = {name: Path(job["file"]).stem for name, job in jobs.items()}
    graph = nx.DiGraph((stage[maker], stage[name]) for name, job in jobs.items() for maker in job["makers"])
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    return {edge for edge in graph.edges if not detour(graph, *edge)}


def detour(graph: nx.DiGraph, start: str, end: str) -> bool:
    """Whether a way of two arrows or more leads there over stages that are always run."""
    inner = graph.subgraph([node for node in graph if node not in OPTIONAL or node in (start, end)]).copy()
    inner.remove_edge(start, end)
    return nx.has_path(inner, start, end)


def wide(stage: str) -> int:
    return 14 + round(max(8 * len(stage), 6.2 * len(STAGES[stage][0])))


def arrow(start: str, end: str) -> str:
    """Return a path from a box to another: beside it, below it, or, past the row between, from its side."""
    (_, x, row), (_, to, below) = STAGES[start], STAGES[end]
    side, middle, top = (1 if to > x else -1), 20 + row * STEP + HIGH / 2, 18 + below * STEP
    if row == below:
        return f"M{x + side * wide(start) / 2:g} {middle:g}H{to - side * (wide(end) / 2 + 2):g}"
    if below - row > 1 and abs(to - x) > 100:
        return f"M{x + side * wide(start) / 2:g} {middle:g}C{to:g} {middle:g} {to:g} {middle:g} {to:g} {top:g}"
    y, shift = middle + HIGH / 2, 0.3 * max(-60, min(60, to - x))
    turn = (top - y) / 2
    return f"M{x + shift:g} {y:g}C{x + shift:g} {y + turn:g} {to - shift:g} {top - turn:g} {to - shift:g} {top:g}"


def box(stage: str) -> str:
    makes, x, row = STAGES[stage]
    y, kind = 20 + row * STEP, "box optional" if stage in OPTIONAL else "box"
    return f"""<rect class="{kind}" x="{x - wide(stage) / 2:g}" y="{y}" width="{wide(stage)}" height="{HIGH}" rx="5"/>
<text class="name" x="{x}" y="{y + 16}">{stage}</text>
<text class="small" x="{x}" y="{y + 31}">{makes}</text>"""


def svg(found: set[tuple[str, str]]) -> str:
    """Return the picture. Raises KeyError for a stage that has no place in STAGES."""
    high = 20 + 9 * STEP + HIGH + 14
    drawn = sorted({stage for edge in found for stage in edge}, key=list(STAGES).index)
    lines = [f'<path class="ink" d="{arrow(*edge)}" marker-end="url(#end)"/>' for edge in sorted(found)]
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 420 {high}" width="420" height="{high}" role="img" \
font-family="system-ui, sans-serif">
<title>The stages of the pipeline and what each reads</title>
<!-- Made by docs/figures/pipeline.py from the rules. -->
<style>
.ink {{ stroke: #555; fill: none; stroke-width: 1.3 }} text {{ fill: #222; text-anchor: middle }}
.name {{ font-size: 13px; font-weight: 600 }} .small {{ font-size: 11px }}
.box {{ fill: #cfe3f1; stroke: #222 }} .optional {{ fill: #fff; stroke-dasharray: 4 2 }} .paper {{ fill: #fff }}
</style>
<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>
<rect class="paper" width="420" height="{high}" rx="6"/>
{chr(10).join([*lines, *map(box, drawn)])}
</svg>
"""


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(svg(arrows()), encoding="utf-8")
