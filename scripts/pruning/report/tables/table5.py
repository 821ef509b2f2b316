"""Table 5: what the dense and the pruned models write for the same prompts, side by side.

`frame` is always what analysis/cases.py returns: one row an item and method, dense first. Texts are a broken model's,
so every character of them is escaped.

Settings: `models`, `calib`, `sparsity` (whole per cent), `methods` in the order of the rows, `dense`, the unpruned
model, among them; `excerpt`, the number of characters shown of each text (the CSV has the whole texts). Files: `cases`,
a template.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pruning.analysis.cases import summary, table5_rows
from pruning.core import artifacts
from pruning.core.names import DENSE, Variant
from pruning.report.files import Files
from pruning.report.printing import Page, tex_escape


def make(files: Files, settings: dict[str, Any]) -> Page:
    def cases(model: str, method: str) -> list[dict]:
        pruned = Variant(settings["calib"], method, settings["sparsity"])
        path = files.at("cases", model=model, variant=DENSE if method == str(DENSE) else pruned)
        return artifacts.read_json(path, "cases")["cases"]

    frames = [
        table5_rows(model, {method: cases(model, method) for method in settings["methods"]}, settings)
        for model in settings["models"]
    ]
    frame = pd.concat(frames, ignore_index=True)
    return Page(frame.drop(columns="prompt"), to_markdown(frame, settings), to_tex(frame, settings))


# Markdown -----------------------------------------------------------------------------------------------------------


def to_markdown(frame: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """All items and the summary as GitHub Markdown."""
    lines = ["# Table 5: what the pruned models write", "", _introduction(settings), ""]
    for (model, item), cases in frame.groupby(["model", "item"], sort=False):
        first = cases.iloc[0]
        lines += [f"## `{model}`, item {item}", "", f"> **Prompt:** {_markdown(first['prompt'])}", ""]
        lines += [f"Right answer: **{_markdown(first['target'])}**", ""]
        lines += ["| Method | Answer | Tokens | Repetition | Text |", "|---|---|---|---|---|"]
        for case in cases.itertuples():
            text = _markdown(_excerpt(case.text, settings["excerpt"])) if case.text.strip() else "*(blank)*"
            lines.append(
                f"| {_markdown(_name(case))} | {_markdown_answer(case)} | {case.tokens} ({case.finish}) "
                f"| {_degeneration(case)} | {text} |"
            )
        lines.append("")
    for model, cases in frame.groupby("model", sort=False):
        lines += [f"## `{model}`, all items", "", f"| {' | '.join(SUMMARY)} |", "|---" * len(SUMMARY) + "|"]
        lines += [*(f"| {' | '.join(map(_markdown, cells))} |" for cells in _summary_cells(cases)), ""]
    return "\n".join(lines)


def _introduction(settings: Mapping[str, Any]) -> str:
    return (
        f"The same prompts, continued by a model as it is (dense) and after {settings['sparsity']}% of "
        f"its FFN neurons were removed by each method, calibrated on `{settings['calib']}`. Each text is the greedy "
        "continuation up to the model's end token (stop) or the limit of tokens (length); only its first "
        f"{settings['excerpt']:,} characters are shown, the whole is in the CSV beside this table. A text may run on "
        "after its answer; only the answer to the prompt itself counts. No answer: none in the form asked for. "
        "Repetition is the share of 4-token sequences that occurred earlier in the same text (0%: nothing is "
        "repeated); loop is the share of the text taken by the phrase that it repeats to its end. These are examples, "
        "too few to compare methods by: for that see Table 1."
    )


SUMMARY = ["Method", "Right", "Wrong", "No answer", "Ended by itself", "Mean tokens", "Mean repetition", "Mean loop"]


def _summary_cells(frame: pd.DataFrame) -> Iterator[list[str]]:
    for row in summary(frame).itertuples():
        counts = [f"{count} of {row.n}" for count in (row.right, row.wrong, row.none, row.stopped)]
        yield [row.method, *counts, f"{row.tokens:.0f}", f"{row.repetition:.0%}", f"{row.final_loop:.0%}"]


def _name(case: Any) -> str:
    return case.method if case.method == str(DENSE) else f"{case.method} {100 * case.sparsity:g}%"


def _markdown_answer(case: Any) -> str:
    return "no answer ✗" if case.format_failure else f"{_markdown(case.answer)} {'✓' if case.correct else '✗'}"


def _degeneration(case: Any) -> str:
    return f"{case.repetition:.0%}" + (f", loop {case.final_loop:.0%}" if case.final_loop else "")


def _excerpt(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} … ({len(text) - length:,} more characters)"


def _lines(text: str) -> list[str]:
    """The text's lines; what cannot be printed shows as �, so that no control character gets into a table."""
    return ["".join(c if c.isprintable() else "�" for c in line.replace("\t", " ")) for line in text.splitlines()]


def _markdown(text: str) -> str:
    """Any text as one line of Markdown that shows exactly this text, in a table cell or a quote."""
    escaped = [re.sub(r"([\\`*_\[\]~$])", r"\\\1", html.escape(line, quote=False)) for line in _lines(text)]
    return "<br>".join(escaped).replace("|", "&#124;")


# LaTeX --------------------------------------------------------------------------------------------------------------


def to_tex(frame: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """An item a float, then a model's summary."""
    blocks = ["% \\usepackage{booktabs} in the preamble; LuaLaTeX or XeLaTeX where texts are not in Latin letters\n"]
    of = f"dense and with {settings['sparsity']}% of its FFN neurons removed ({settings['calib']})"
    for (model, item), cases in frame.groupby(["model", "item"], sort=False):
        first = cases.iloc[0]
        head = [f"\\footnotesize\\raggedright Prompt: {_tex(first['prompt'])}\\par"]
        head += [f"Right answer: {_tex(first['target'])}\\par\\medskip"]
        rows = [
            [_tex(_name(case)), _tex_answer(case), f"{case.tokens} ({case.finish})", _tex(_degeneration(case))]
            + [f"\\raggedright {_tex(_excerpt(case.text, settings['excerpt']))}"]
            for case in cases.itertuples()
        ]
        header = ["Method", "Answer", "Tokens", "Repetition", "Text"]
        caption = f"Texts of {model}, {of}: item {item}"
        blocks.append(_tex_float(caption, f"table5-{model}-{item}", head, r"llllp{0.5\textwidth}", header, rows))
    for model, cases in frame.groupby("model", sort=False):
        rows = [[_tex(cell) for cell in cells] for cells in _summary_cells(cases)]
        caption = f"Summary of the texts of {model}, {of}"
        blocks.append(_tex_float(caption, f"table5-{model}", [], "lccccccc", SUMMARY, rows))
    return "\n".join(blocks)


def _tex_float(
    caption: str, label: str, head: Sequence[str], columns: str, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    lines = [
        r"\begin{table*}[t]",
        f"\\caption{{{_tex(caption)}.}}",
        f"\\label{{tab:{label}}}",
        *head,
        r"\footnotesize",
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \tabularnewline" for cells in rows),  # \raggedright in a cell redefines \\
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}", ""])


def _tex_answer(case: Any) -> str:
    return "none" if case.format_failure else f"{_tex(case.answer)} ({'right' if case.correct else 'wrong'})"


def _tex(text: str) -> str:
    """Any text as LaTeX that prints exactly this text, lines and all."""
    plain = (r"\textasciigrave{}".join(map(tex_escape, line.split("`"))) for line in _lines(text))
    return r"\newline ".join(line or r"\mbox{}" for line in plain)  # \newline wants a line to end
