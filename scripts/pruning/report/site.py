"""Pages of results to read in a browser: what a table says in a sentence, and HTML that a telephone can show."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt

from pruning.report.layout import significant
from pruning.report.printing import percent, plain

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
REFERENCES = {"untuned": "the same model before recovery"}
MOST = 4  # sparsities that a sentence goes through
ABOUT = re.compile(r'<script type="application/json" id="about">(.*?)</script>', re.S)


def fill(template: Path, **values: Any) -> str:
    """A Jinja template, which may include others of its folder."""
    loader = jinja2.FileSystemLoader(template.parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(template.name).render(**values)


def about(page: str) -> dict[str, Any] | None:
    """`title` and `lead` (HTML) of a first page; None for other pages."""
    found = ABOUT.search(page)
    return json.loads(found[1]) if found else None


def rendered(markdown: str) -> str:
    """HTML of a table's page: each table in a box that scrolls, intervals whole, notes folded. Of HTML in the Markdown,
    which holds texts that models wrote, line breaks alone count."""
    html = MARKDOWN.render(markdown).replace("&lt;br&gt;", "<br>")
    html = re.sub(r"(<td>.*?)(\[[^]]*\])", r'\1<span class="interval">\2</span>', html)
    for tag, before, after in (
        ("table", '<div class="scroll">', "</div>"),
        ("ul", "<details><summary>Notes</summary>", "</details>"),
    ):
        html = html.replace(f"<{tag}>", f"{before}<{tag}>").replace(f"</{tag}>", f"</{tag}>{after}")
    return html


def inline(markdown: str) -> str:
    return MARKDOWN.renderInline(markdown)


def title_of(markdown: str) -> str:
    """The heading of a table's page."""
    return markdown.partition("\n")[0].removeprefix("# ")


def without_title(markdown: str) -> str:
    return markdown.partition("\n")[2]


# Sentences, in Markdown -----------------------------------------------------------------------------------------------


def of_results(frame: pd.DataFrame, titles: Mapping[str, str], confidence: float) -> str:
    """The dense model's result on a table's first task, and the best method's at every sparsity, of each model.

    frame: rows of analysis/comparison.py. titles: of tasks."""
    return " ".join(
        _of_model(rows, titles, confidence) for _, rows in frame.groupby("model", sort=False) if len(rows) > 1
    )


def _of_model(frame: pd.DataFrame, titles: Mapping[str, str], confidence: float) -> str:
    """Of the first column that is compared with something, or of the first."""
    pruned = frame[frame["method"] != "dense"]
    compared = pruned.dropna(subset=["reference"])
    leading = (compared if len(compared) else pruned).iloc[0]
    rows = frame[(frame["task"] == leading["task"]) & (frame["metric"] == leading["metric"])]
    dense = rows[rows["method"] == "dense"].iloc[0]
    tuning = leading["tuning"] if isinstance(leading["tuning"], str) else None
    same = rows["tuning"] == tuning if tuning else rows["tuning"].isna()
    pruned = rows[same & (rows["calib"] == leading["calib"])]
    perplexity = leading["metric"] == "perplexity"
    title = titles.get(leading["task"], leading["task"]).removesuffix(", perplexity")
    sparsities = sorted(pruned["sparsity"].unique())
    at_equal_cost = len(sparsities) > 1 and pruned.groupby("method")["sparsity"].nunique().max() == 1
    if at_equal_cost:  # each method at its own, as a budget chose
        sparsities = sparsities[:1]
    if len(sparsities) > MOST:
        sparsities = [sparsities[0], sparsities[len(sparsities) // 2], sparsities[-1]]
    count, parts = pruned["method"].nunique(), []
    for sparsity in sparsities:
        of = pruned if at_equal_cost else pruned[pruned["sparsity"] == sparsity]
        best = of.loc[of["value"].idxmin() if perplexity else of["value"].idxmax()]
        share = f"{100 * best['sparsity']:.0f}%{'' if parts else ' of the FFN neurons removed'}"
        parts.append(f"at {share} `{best['method']}`, {_value(best)}{_verdict(best, confidence)}")
    return (
        f"`{leading['model']}` has {'a perplexity of' if perplexity else 'an accuracy of'} {_value(dense)} on {title} "
        f"before pruning. {f'Best of {count} methods' if count > 1 else 'After pruning'}"
        f"{f', recovered on `{tuning}`' if tuning else ''}: {'; '.join(parts)}."
    )


def _verdict(row: Mapping[str, Any], confidence: float) -> str:
    """Of the test against what a row is compared with."""
    if not isinstance(row["reference"], str):
        return ""
    higher = row["delta"] > 0
    better = not higher if row["metric"] == "perplexity" else higher
    how = "significantly better than" if better else "significantly worse than"
    against = REFERENCES.get(row["reference"], f"`{row['reference']}`")
    return f", {how if significant(row, {'confidence': confidence}) else 'not significantly different from'} {against}"


def _value(row: Mapping[str, Any]) -> str:
    ends = row["value"], row["ci_low"], row["ci_high"]
    value, low, high = plain(*ends) if row["metric"] == "perplexity" else percent(*ends)
    unit = "" if row["metric"] == "perplexity" else "%"
    return f"{value}{unit} [{low}, {high}]"


def of_tradeoff(frame: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """The smallest model that the dense one is not clearly better than: quality, size and speed."""
    found = []
    for model, rows in frame.groupby("model", sort=False):
        dense = rows[rows["method"] == "dense"].iloc[0]
        perplexity = dense["metric"] == "perplexity"
        as_good = rows["ci_low"] <= dense["ci_high"] if perplexity else rows["ci_high"] >= dense["ci_low"]
        sign = 1 if perplexity else -1
        order = rows.assign(order=sign * rows["value"], size=(100 * rows["bytes"] / dense["bytes"]).round())
        row = order[as_good].sort_values(["size", "order"], kind="stable").iloc[0]
        if row["method"] == "dense":
            found.append(f"No pruned `{model}` has an interval that meets the dense model's, {_value(dense)}.")
            continue
        speeds = [
            f"{what} {row[f'{part}_speedup']:.2f} times as fast [{row[f'{part}_speedup_low']:.2f}, "
            f"{row[f'{part}_speedup_high']:.2f}]"
            for part, what in (("prefill", "reads a prompt"), ("decode", "writes"))
        ]
        found.append(
            f"The smallest `{model}` whose interval still meets the dense model's ({_value(dense)} on "
            f"{titles.get(row['task'], row['task'])}) is {called(row)}: {_value(row)}, {row['size']:.0f}% of its "
            f"bytes; it {' and '.join(speeds)}."
        )
    return " ".join(found)


def called(row: Mapping[str, Any]) -> str:
    recovered = ", recovered" if isinstance(row["tuning"], str) else ""
    return f"`{row['method']}`, {100 * row['sparsity']:.0f}%{recovered}"


def of_collapse(frame: pd.DataFrame) -> str:
    """The methods that hold out longest and shortest."""
    found = []
    for model, rows in frame.groupby("model", sort=False):
        inside = rows.dropna(subset=["collapse"]).sort_values("collapse")
        beyond = rows.loc[rows["collapse"].isna(), "method"]
        ends = [f"at {100 * row.collapse:.1f}% with `{row.method}`" for row in inside.itertuples()]
        last = [f"beyond what was measured with `{'`, `'.join(beyond)}`"] if len(beyond) else []
        if ends or last:
            said = "; ".join(dict.fromkeys([*last, *ends[-1:], *ends[:1]]))
            found.append(f"Half of what `{model}` is above guessing is lost, from the last to the first: {said}.")
    return " ".join(found)


def of_costs(frame: pd.DataFrame) -> str:
    jobs, seconds = frame["jobs"].sum(), frame["total_s"].sum()
    return f"{jobs:,} jobs, {seconds / 3600:.1f} hours one after another; most of it `{frame.iloc[0]['stage']}`."


def sentence(maker: str, frame: pd.DataFrame, titles: Mapping[str, str], confidence: float) -> str:
    """What a table says; empty where only its caption can."""
    if maker == "results":
        return of_results(frame, titles, confidence)
    if maker == "tradeoff":
        return of_tradeoff(frame, titles)
    return {"collapse": of_collapse, "costs": of_costs}.get(maker, lambda frame: "")(frame)
