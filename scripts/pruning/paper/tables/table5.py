"""Table 5: what the dense and the pruned models write for the same prompts, side by side.

Texts are a broken model's, so every character of them is escaped.

Settings: `models`, `calib`, `sparsity` (whole per cent), `methods` in the order of the rows, `dense`, the unpruned
model, among them; `excerpt`, the number of characters shown of each text (the CSV has the whole texts). Files: `cases`,
a template.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from pruning.core import artifacts, names
from pruning.core.names import DENSE, Variant
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, Literal

COPIED = ["tokens", "finish", "repetition", "final_loop", "format_failure", "answer", "correct", "text", "prompt"]
COLUMNS = ["model", "calib", "method", "sparsity", "item", *COPIED[:-3], "target", *COPIED[-3:]]


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    def cases(model: str, method: str) -> list[dict]:
        pruned = Variant(settings["calib"], method, settings["sparsity"])
        path = files.at("cases", model=model, variant=DENSE if method == str(DENSE) else pruned)
        return artifacts.read_json(path, "cases")["cases"]

    frames, blocks = [], []
    for model in settings["models"]:
        frames.append(rows(model, {method: cases(model, method) for method in settings["methods"]}, settings))
        blocks.append(summary(model, frames[-1], settings))
        blocks += [item_block(model, item, of, settings) for item, of in frames[-1].groupby("item", sort=False)]
    frame = pd.concat(frames, ignore_index=True).drop(columns="prompt")
    return printing.Page("table5", "Table 5: what the pruned models write", frame, blocks)


def rows(model: str, cases: Mapping[str, Sequence[Mapping[str, Any]]], settings: Mapping[str, Any]) -> pd.DataFrame:
    """COLUMNS of one model's cases, item by item, the methods in their order; `sparsity` as a fraction, `target` the
    right answer.

    Args: `cases` maps a method, or `dense`, to the `cases` of its cases.json."""
    found = []
    for number, method in product(range(len(cases[str(DENSE)])), settings["methods"]):
        case = cases[method][number]
        sparsity = 0.0 if method == str(DENSE) else names.share(settings["sparsity"])
        own = {"model": model, "calib": settings["calib"], "method": method, "sparsity": sparsity}
        found.append(own | {**case, "target": case["target_answer"]})
    return pd.DataFrame(found)[COLUMNS]


def summary(model: str, frame: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    """A row per method over its items: how many right, wrong, without an answer in due form, ended by themselves, and
    means."""
    counted = frame.assign(
        right=frame["correct"],
        wrong=~frame["correct"] & ~frame["format_failure"],
        none=frame["format_failure"],
        stopped=frame["finish"] == "stop",
    )
    lines = []
    for method, of in counted.groupby("method", sort=False):
        counts = [f"{of[name].sum()} of {len(of)}" for name in ("right", "wrong", "none", "stopped")]
        means = [f"{of['repetition'].mean():.0%}", f"{of['final_loop'].mean():.0%}"]
        lines.append((f"`{method}`", [*counts, f"{of['tokens'].mean():.0f}", *means]))
    notes = [
        f"Greedy continuations by the dense model and after {settings['sparsity']}% of its FFN neurons were removed, "
        f"calibrated on `{settings['calib']}`, up to the end token (stop) or the limit (length); below, their "
        f"first {settings['excerpt']:,} characters (whole in the CSV). Examples, too few to compare methods by.",
        "No answer: none in the form asked for. Repetition: share of 4-token sequences that occurred earlier in the "
        "text. Loop: share of the text taken by the phrase that it repeats to its end.",
    ]
    columns = ["Right", "Wrong", "No answer", "Ended by itself", "Mean tokens", "Mean repetition", "Mean loop"]
    return Block(model, f"`{model}`, all items", columns, lines, notes)


def item_block(model: str, item: int, cases: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    """The prompt with its right answer, then what each method's model writes."""
    first = cases.iloc[0]
    lines = [("prompt", [Literal(first["target"]), "", "", Literal(first["prompt"])])]
    for case in cases.itertuples():
        label = f"`{case.method}`" + (f" {names.percent(case.sparsity):g}%" if case.sparsity else "")
        judged = Literal(f"{case.answer} ({'right' if case.correct else 'wrong'})")
        text, length = case.text, settings["excerpt"]
        if len(text) > length:
            text = f"{text[:length]} … ({len(text) - length:,} more characters)"
        repetition = f"{case.repetition:.0%}" + (f", loop {case.final_loop:.0%}" if case.final_loop else "")
        cells = ["no answer" if case.format_failure else judged, f"{case.tokens} ({case.finish})", repetition]
        lines.append((label, [*cells, Literal(text) if text.strip() else "(blank)"]))
    columns = ["Answer", "Tokens", "Repetition", "Text"]
    return Block(f"{model}-{item}", f"`{model}`, item {item}", columns, lines, [])
