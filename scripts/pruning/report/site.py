"""Pages of results to read in a browser: what a table says in a sentence, and HTML that a telephone can show."""

import json
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt

from pruning.analysis.comparison import UNTUNED, deciding_p
from pruning.core import names
from pruning.report.printing import estimate

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
MOST = 4  # sparsities that a sentence goes through
LOWER = {"perplexity": "a perplexity of", "bits_per_byte": "bits per byte:"}
"""Metrics of which less is better, as a sentence names them."""
ABOUT = re.compile(r'<script type="application/json" id="about">(.*?)</script>', re.S)


def about(page: str) -> dict[str, Any] | None:
    """`title` and `lead` (HTML) of a first page; None for other pages."""
    found = ABOUT.search(page)
    return json.loads(found[1]) if found else None


def rendered(markdown: str) -> str:
    """HTML of a table's page: each table in a box that scrolls, intervals whole, notes folded. Of HTML in the Markdown,
    which holds texts that models wrote, line breaks alone count."""
    html = MARKDOWN.render(markdown).replace("&lt;br&gt;", "<br>")
    html = re.sub(r"(<td>.*?)(\[[^]<]*\])", r'\1<span class="interval">\2</span>', html)
    for tag, before, after in (
        ("table", '<div class="scroll">', "</div>"),
        ("ul", "<details><summary>Notes</summary>", "</details>"),
    ):
        html = html.replace(f"<{tag}>", f"{before}<{tag}>").replace(f"</{tag}>", f"</{tag}>{after}")
    return html


def table_page(markdown: str) -> tuple[str, str]:
    """The heading of a table's page, and HTML of the rest."""
    title, _, rest = markdown.removeprefix("# ").partition("\n")
    return title, rendered(rest)


# Sentences, in Markdown -----------------------------------------------------------------------------------------------


def sentence(maker: str, frame: pd.DataFrame, titles: Mapping[str, str], confidence: float) -> str:
    """What a table says; empty where only its caption can. `titles`: of tasks."""
    if maker == "costs":
        jobs, seconds = frame["jobs"].sum(), frame["total_s"].sum()
        return f"{jobs:,} jobs, {seconds / 3600:.1f} hours one after another; most of it `{frame.iloc[0]['stage']}`."
    if maker not in SENTENCES:
        return ""
    found = (SENTENCES[maker](rows, titles, confidence) for _, rows in frame.groupby("model", sort=False))
    return " ".join(filter(None, found))


def of_results(frame: pd.DataFrame, titles: Mapping[str, str], confidence: float) -> str:
    """The dense model's result and the best method's at every sparsity, of one model, on the first column that is
    compared with something, or on the first. frame: rows of analysis/comparison.py."""
    pruned = frame[frame["method"] != "dense"]
    compared = pruned.dropna(subset=["reference"])
    leading = (compared if len(compared) else pruned).iloc[0]
    rows = frame[(frame["task"] == leading["task"]) & (frame["metric"] == leading["metric"])]
    dense = rows[rows["method"] == "dense"].iloc[0]
    tuning = leading["tuning"] if isinstance(leading["tuning"], str) else None
    pruned = rows[(rows["tuning"].fillna("") == (tuning or "")) & (rows["calib"] == leading["calib"])]
    lower = leading["metric"] in LOWER
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
        best = of.loc[of["value"].idxmin() if lower else of["value"].idxmax()]
        share = f"{names.percent(best['sparsity']):.0f}%{'' if parts else ' of the FFN neurons removed'}"
        parts.append(f"at {share} `{best['method']}`, {_value(best)}{_verdict(best, confidence)}")
    return (
        f"`{leading['model']}` has {LOWER.get(leading['metric'], 'an accuracy of')} {_value(dense)} on {title} "
        f"before pruning. {f'Best of {count} methods' if count > 1 else 'After pruning'}"
        f"{f', recovered on `{tuning}`' if tuning else ''}: {'; '.join(parts)}."
    )


def _verdict(row: Mapping[str, Any], confidence: float) -> str:
    """Of the test against what a row is compared with."""
    if not isinstance(row["reference"], str):
        return ""
    better = (row["delta"] > 0) != (row["metric"] in LOWER)
    how = f"significantly {'better' if better else 'worse'} than"
    against = "the same model before recovery" if row["reference"] == UNTUNED else f"`{row['reference']}`"
    return f", {how if deciding_p(row) <= 1 - confidence else 'not significantly different from'} {against}"


def _value(row: Mapping[str, Any]) -> str:
    kind, unit = ("perplexity", "") if row["metric"] in LOWER else ("accuracy", "%")
    cell = estimate(kind, row["value"], row["ci_low"], row["ci_high"])
    return f"{cell.value}{unit} {cell.interval}"


def of_tradeoff(frame: pd.DataFrame, titles: Mapping[str, str], confidence: float) -> str:
    """The smallest model that the dense one is not clearly better than: quality, size and speed."""
    model, dense = frame["model"].iloc[0], frame[frame["method"] == "dense"].iloc[0]
    lower = dense["metric"] in LOWER
    worse = frame["ci_low"] > dense["ci_high"] if lower else frame["ci_high"] < dense["ci_low"]
    order = (1 if lower else -1) * frame["value"]
    sized = frame.assign(order=order, size=(100 * frame["bytes"] / dense["bytes"]).round())
    row = sized[~worse].sort_values(["size", "order"], kind="stable").iloc[0]
    if row["method"] == "dense":
        return f"No pruned `{model}` has an interval that meets the dense model's, {_value(dense)}."
    speeds = [
        f"{what} {row[f'{part}_speedup']:.2f} times as fast [{row[f'{part}_speedup_low']:.2f}, "
        f"{row[f'{part}_speedup_high']:.2f}]"
        for part, what in (("prefill", "reads a prompt"), ("decode", "writes"))
    ]
    recovered = ", recovered" if isinstance(row["tuning"], str) else ""
    return (
        f"The smallest `{model}` whose interval still meets the dense model's ({_value(dense)} on "
        f"{titles.get(row['task'], row['task'])}) is `{row['method']}`, {names.percent(row['sparsity']):.0f}%"
        f"{recovered}: {_value(row)}, {row['size']:.0f}% of its bytes; it {' and '.join(speeds)}."
    )


def of_collapse(frame: pd.DataFrame, titles: Mapping[str, str], confidence: float) -> str:
    """The methods that hold out longest and shortest."""
    inside = frame.dropna(subset=["collapse"]).sort_values("collapse")
    beyond = frame.loc[frame["censored"], "method"]
    ends = [f"at {100 * row.collapse:.1f}% with `{row.method}`" for row in inside.itertuples()]
    last = [f"beyond what was measured with `{'`, `'.join(beyond)}`"] if len(beyond) else []
    said = "; ".join(dict.fromkeys([*last, *ends[-1:], *ends[:1]]))
    if not said:
        return f"`{frame['model'].iloc[0]}` is not above guessing before it is pruned."
    return f"Half of what `{frame['model'].iloc[0]}` is above guessing is lost, from the last to the first: {said}."


SENTENCES = {"results": of_results, "tradeoff": of_tradeoff, "collapse": of_collapse}
