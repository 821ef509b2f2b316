"""Tables to read, in Markdown and LaTeX, from cells that say no more than what is printed."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Cell:
    """One printed result: value and interval, marks (†, n.s.), and the published value with the difference."""

    value: str
    interval: str = ""
    best: bool = False
    marks: tuple[str, ...] = ()
    published: str = ""


class Literal(str):
    """A text to show as it is, every character and line of it, such as a broken model's."""


@dataclass(frozen=True)
class Block:
    """A table to print. Texts are Markdown with no markup but `code`; rows have a cell, or its text, per group and
    column."""

    name: str
    title: str
    columns: list[str]
    rows: list[tuple[str, list[Cell | str]]]
    notes: list[str]
    head: str = "Method"
    groups: Sequence[str] = ("",)


@dataclass(frozen=True)
class Page:
    """A table in its three forms: `frame` is what the CSV holds, tidy."""

    name: str
    title: str
    frame: pd.DataFrame
    blocks: Sequence[Block]

    @property
    def markdown(self) -> str:
        """All blocks as GitHub Markdown, the source aligned so that it can be read as it stands."""
        return f"# {self.title}\n\n" + "\n".join(map(_markdown_block, self.blocks))

    @property
    def tex(self) -> str:
        """All blocks as LaTeX floats. To fit a page, interval and published value stand below each value, in a table of
        more than LONG rows beside it."""
        floats = [_tex_block(self.name, block) for block in self.blocks]
        return "\n".join(["% \\usepackage{booktabs,graphicx} in the preamble", *floats])


def _markdown_block(block: Block) -> str:
    header = [block.head, *(f"{g}: {column}" if g else column for g in block.groups for column in block.columns)]
    body = [[label, *map(_markdown_cell, cells)] for label, cells in block.rows]
    table = [[text.replace("|", "\\|") for text in line] for line in [header, *body]]
    widths = [min(100, max(map(len, column))) for column in zip(*table, strict=True)]  # of longer texts no alignment
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([f"## {block.title}", "", *lines, "", *(f"* {note}" for note in block.notes), ""])


def _markdown_cell(cell: Cell | str) -> str:
    if isinstance(cell, Literal):  # one line that reads as this text, in a cell
        escaped = [re.sub(r"([\\`*_\[\]~$])", r"\\\1", html.escape(line, quote=False)) for line in _lines(cell)]
        return "<br>".join(escaped).replace("|", "&#124;")
    if isinstance(cell, str):
        return cell
    value = f"**{cell.value}**" if cell.best else cell.value
    published = [f"({cell.published})"] if cell.published else []
    return " ".join(filter(None, [value, cell.interval, *cell.marks, *published]))


def _tex_block(name: str, block: Block) -> str:
    width = len(block.columns)
    header = [block.head, *block.columns * len(block.groups)]
    lines = [
        r"\begin{table*}[t]",
        r"\centering\small",
        f"\\caption{{{tex_escape(block.title)}.}}",
        f"\\label{{tab:{name}-{block.name}}}",
        f"{FIT}\\begin{{tabular}}{{l{'c' * (width * len(block.groups))}}}",
        r"\toprule",
    ]
    if any(block.groups):
        heads = [f"{group} sparsity" if group.endswith("%") else group for group in block.groups]
        lines += [_tex_row(["", *(f"\\multicolumn{{{width}}}{{c}}{{{tex_escape(head)}}}" for head in heads)])]
        starts = [2 + width * i for i in range(len(heads))]
        lines += [" ".join(f"\\cmidrule(lr){{{start}-{start + width - 1}}}" for start in starts)]
    lines += [_tex_row(map(tex_escape, header))]
    long = len(block.rows) > LONG
    for i, (label, cells) in enumerate(block.rows):
        lines += [r"\midrule"] * (i < 2) or [r"\addlinespace"] * (not long)  # rules above and below the dense row
        lines += _tex_rows(label, cells, beside=long)
    notes = [f"{tex_escape(note)}\\par" for note in block.notes]
    minipage = [r"\par\medskip", r"\begin{minipage}{\textwidth}\footnotesize", *notes, r"\end{minipage}"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", *minipage, r"\end{table*}", ""])


def _tex_rows(label: str, cells: Sequence[Cell | str], beside: bool) -> list[str]:
    cells = [Cell(cell) if isinstance(cell, str) else cell for cell in cells]
    texts = [_tex_literal(c.value) if isinstance(c.value, Literal) else tex_escape(c.value) for c in cells]
    bold = [f"\\textbf{{{text}}}" if c.best else text for text, c in zip(texts, cells, strict=True)]
    values = ["\\,".join([value, *map(tex_escape, c.marks)]) for value, c in zip(bold, cells, strict=True)]
    small = [[cell.interval for cell in cells], [cell.published for cell in cells]]
    below = [[f"{{\\scriptsize {tex_escape(text)}}}" if text else "" for text in line] for line in small if any(line)]
    lines = [[tex_escape(label), *values], *(["", *line] for line in below)]
    if beside:
        lines = [[" ".join(filter(None, texts)) for texts in zip(*lines, strict=True)]]
    return [_tex_row(line) for line in lines]


def _tex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


FIT = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"  # smaller only where wider than the page
LONG = 20  # rows of which a page holds two lines each, and the notes
TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "†": r"$^{\dagger}$"}
TEX |= {"±": r"$\pm$", "−": "$-$", "–": "--", ">": "$>$", "<": "$<$", "=": "$=$", "✓": "yes", "✗": "no"}
TEX |= {"|": r"\textbar{}", "Σ": r"$\Sigma$", "²": "$^2$", "�": r"\fbox{?}"}
TEX = str.maketrans(TEX | {c: f"\\{c}" for c in "&%$#_{}"})


def tex_escape(text: str) -> str:
    """Plain text with `code` as LaTeX."""
    parts = text.translate(TEX).split("`")
    return "".join(f"\\texttt{{{part}}}" if i % 2 else part for i, part in enumerate(parts))


def _lines(text: str) -> list[str]:
    """The text's lines; what cannot be printed shows as �, so that no control character gets into a table."""
    return ["".join(c if c.isprintable() else "�" for c in line.replace("\t", " ")) for line in text.splitlines()]


def _tex_literal(text: str) -> str:
    """Any text as LaTeX that prints exactly this text; a long one in a box of its own."""
    lines = [r"\textasciigrave{}".join(map(tex_escape, line.split("`"))) for line in _lines(text)]
    joined = r"\newline ".join(line or r"\mbox{}" for line in lines)  # \newline wants a line to end
    short = len(lines) < 2 and len(text) < 40
    return joined if short else rf"\parbox[t]{{0.5\textwidth}}{{\raggedright {joined}}}"


def percent(*values: float) -> list[str]:
    """Fractions in per cent with one decimal."""
    return ["–" if math.isnan(value) else f"{100 * value:.1f}" for value in values]


def plain(*values: float) -> list[str]:
    """Perplexities and divergences, all with the decimals that show four digits of the first (at most three)."""
    decimals = min(3, max(0, 3 - math.floor(math.log10(values[0])))) if values[0] > 0 else 3
    return ["–" if math.isnan(value) else f"{value:,.{decimals}f}" for value in values]


def shown(kind: str, *values: float) -> list[str]:
    """Values of a task of this kind: fractions in per cent, others as they are."""
    return (percent if kind == "accuracy" else plain)(*values)


def estimate(kind: str, value: float, low: float, high: float, *more: Any) -> Cell:
    """A value with its interval; `more` as of `Cell`."""
    value, low, high = shown(kind, value, low, high)
    return Cell(value, f"[{low}, {high}]", *more)


def items(counts: Iterable[int]) -> str:
    """How many items rows were evaluated on, of which some may have stopped early."""
    least, most = min(counts), max(counts)
    return f"n = {most:,}" + (f", of models that `stop_early` stopped the first {least:,}" if least < most else "")


def speedup(row: Any, part: str) -> Cell:
    """A speed-up of `prefill` or `decode` with its interval, of a row of timing.timings."""
    ratio, low, high = (getattr(row, f"{part}_speedup{end}") for end in ("", "_low", "_high"))
    return Cell(f"{ratio:.2f}", f"[{low:.2f}, {high:.2f}]")


def signed(points: float) -> str:
    """A difference with its sign and one decimal; minus zero is a plain zero."""
    return "–" if math.isnan(points) else f"{round(points, 1) + 0.0:+.1f}".replace("-", "−")


def difference(published: float, points: float) -> str:
    """The published value, and what was measured minus it."""
    return f"paper {published:.2f}, {signed(points)}"


def comparisons(number: int) -> str:
    """How many tests an adjustment is over, in words."""
    return f"{number} comparison" + ("" if number == 1 else "s")


def memory(megabytes: float) -> str:
    """Peak memory; jobs too short for Snakemake to sample have none."""
    return "–" if math.isnan(megabytes) else f"{megabytes:,.0f}"
