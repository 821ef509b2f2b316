"""Pruned models against the dense one in fewer bits and against smaller ones, at equal bytes or equal speed.

Files: `samples`, `files` (records of evaluation/gguf_files.py) and, at equal speed, `speed` (of
analysis/file_speed.py), templates. Settings: `name`, `title`, `models`, `siblings`, `calibrations`, `variants` (pruned
ones, as dicts), `types` (GGUF types; null: unquantised), `costs` (of tradeoff.COSTS), `tasks` (as
report/tables/results.py has them), `twins` (column that llama.cpp answers -> the harness's of the
same questions, or null), `quantised_before` (models made from a GGUF file), `confidence`, `resamples` and
`seed`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pandas as pd

from pruning.analysis import alternatives
from pruning.core import artifacts, significance
from pruning.core.names import DENSE, UNQUANTISED, Column, Variant
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, Cell, estimate, items, percent, signed, speedup
from pruning.report.tables import tradeoff
from pruning.report.tables.tradeoff import MARKS

ROWS = "model calib column of method sparsity tuning type label task metric n value ci_low ci_high delta delta_low "
ROWS += "delta_high p_value p_holm parameters bytes stored equal_n equal_answers"
TIMES = [
    *("prefill_s", "prefill_speedup", "prefill_speedup_low", "prefill_speedup_high", "decode_tokens_per_s"),
    *("decode_speedup", "decode_speedup_low", "decode_speedup_high", "memory_mb"),
]
CONDITIONS = ["llama_cpp", "device", "threads", "prompt_tokens", "decode_tokens", "rounds"]
COMPARED = ["cost", "front", "alternative", *(f"alternative_{key}" for key in (*alternatives.TESTED, "p_holm"))]
COSTS = {
    "size": ("bytes", "File (MB)", lambda row: row["bytes"] / 1e6),
    "prefill": ("prefill time", "Prefill (ms)", lambda row: 1000 * row["prefill_s"]),
    "decode": ("decoding time", "Decoding (tokens/s)", lambda row: row["decode_tokens_per_s"]),
}
"""What is equal, and how a row's own is headed and shown."""


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    blocks, frames, columns = [], [], settings["tasks"].items()
    for model, calib, (column, entry) in product(settings["models"], settings["calibrations"], columns):
        candidates, conditions = candidates_of(files, model, calib, Column.parse(column), settings)
        samples = partial(files.samples, task=entry["task"])
        frame, outcomes = alternatives.rows(model, candidates, samples, entry, settings)
        if twin := settings["twins"].get(column):
            other = settings["tasks"][twin]
            theirs = [files.samples(*row, other["task"]) for row in candidates]
            ours = [own[own["metric"] == other["metrics"][0]] for own in theirs]
            pairs = [alternatives.equal_answers(*both) for both in zip(outcomes, ours, strict=True)]
            frame["equal_n"], frame["equal_answers"] = zip(*pairs, strict=True)
        for cost in settings["costs"]:
            rows = alternatives.against_best(frame, outcomes, cost, entry["kind"], settings)
            named = [label(row) for row in rows.to_dict("records")]
            rows["alternative"] = [None if pd.isna(number) else named[int(number)] for number in rows["alternative"]]
            expense = rows["bytes"] if cost == "size" else 1 / rows[f"{cost}_speedup"]
            rows = rows.assign(label=named).iloc[(-expense).argsort(kind="stable")]
            blocks.append(block(model, calib, column, cost, rows, conditions, settings))
            rows = rows.assign(calib=calib, column=column)
            frames.append(rows.reindex(columns=ROWS.split() + (TIMES if conditions else []) + COMPARED))
    return printing.Page(settings["name"], settings["title"], pd.concat(frames, ignore_index=True), blocks)


def candidates_of(
    files: Files, model: str, calib: str, column: Column, settings: Mapping[str, Any]
) -> tuple[dict[alternatives.Row, dict[str, Any]], dict[str, Any]]:
    """Each row's costs, the dense model's first, and what times hold under (nothing at equal bytes)."""
    pruned = [column.of(Variant(**own)) for own in settings["variants"] if own["calib"] == calib]
    shown = [(model, DENSE), *((model, own) for own in pruned), *((other, DENSE) for other in settings["siblings"])]
    found, timed = {}, {}
    for (alias, whole), kind in product(shown, settings["types"]):
        own, place = replace(whole, type=kind), {"variant": whole, "type": kind or UNQUANTISED}
        record = artifacts.read_json(files.at("files", model=alias, **place), "gguf")
        matrices = {stored: count for stored, count in record["tensors"].items() if stored != "F32"}
        found[alias, own] = {key: record[key] for key in ("bytes", "parameters")}
        found[alias, own] |= {"stored": max(matrices, key=matrices.get)}
        if "speed" in files.named and (alias, own) != (model, DENSE):
            path = files.at("speed", model=model, other=alias, **place)
            timed[alias, own] = artifacts.read_csv(path).set_index("file")
            found[alias, own] |= timed[alias, own].loc["other", TIMES].to_dict()
    if not timed:
        return found, {}
    found[model, DENSE] |= pd.concat(timed.values()).loc[["dense"], TIMES].median().to_dict()
    return found, next(iter(timed.values())).loc["other", CONDITIONS].to_dict()


def label(row: Mapping[str, Any]) -> str:
    """As `wanda`, 30%, recovered (gsm8k), Q4_K_M."""
    name = tradeoff.label(row) if row["of"] == row["model"] else f"`{row['of']}`"
    return f"{name}, {row['type'].upper() if pd.notna(row['type']) else 'unquantised'}"


def block(
    model: str,
    calib: str,
    column: str,
    cost: str,
    rows: pd.DataFrame,
    conditions: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Block:
    entry = settings["tasks"][column]
    lines = [(row["label"], cells(row, cost, entry["kind"])) for row in rows.to_dict("records")]
    at, head, _ = COSTS[cost]
    columns = [entry["title"], "Difference from dense", "p", head]
    columns += [] if cost == "size" else ["Speed-up", "Memory (MB)"]
    columns += ["Best alternative that does not cost more", "Difference from it", "p of that", "Front"]
    title = f"`{model}`, calibrated on `{calib}`: {entry['title']} at equal {at}"
    said = notes(rows, cost, entry, conditions, settings, column in settings["twins"])
    return Block(f"{model}-{calib}-{column}-{cost}", title, columns, lines, said, head="Model")


def cells(row: Mapping[str, Any], cost: str, kind: str) -> list[Cell]:
    found = [estimate(kind, row["value"], row["ci_low"], row["ci_high"], row["front"] == "front")]
    found += [*_difference(row, "", kind), Cell(f"{COSTS[cost][-1](row):,.1f}")]
    if cost != "size":
        found += [speedup(pd.Series(row), cost), Cell(f"{row['memory_mb']:,.0f}")]
    pruned = pd.notna(row["calib"])
    best = row["alternative"] if isinstance(row["alternative"], str) else "none" if pruned else ""
    return [*found, Cell(best), *_difference(row, "alternative_", kind), Cell(MARKS[row["front"]])]


def _difference(row: Mapping[str, Any], of: str, kind: str) -> list[Cell]:
    """A difference with its interval, in points of accuracy or in perplexity, and Holm's p."""
    delta, low, high = (row[f"{of}{key}"] for key in ("delta", "delta_low", "delta_high"))
    if pd.isna(delta):
        return [Cell(""), Cell("")]
    if kind == "accuracy":
        delta, low, high = (signed(100 * value) for value in (delta, low, high))
    else:
        decimals = 3 if kind == "bits" else 2  # as many as `estimate` shows of the values
        rounded = (round(value, decimals) + 0.0 for value in (delta, low, high))  # minus zero is a plain zero
        delta, low, high = (f"{value:+.{decimals}f}".replace("-", "−") for value in rounded)
    return [Cell(delta, f"[{low}, {high}]"), Cell(significance.shown(row[f"{of}p_holm"]))]


def notes(
    rows: pd.DataFrame,
    cost: str,
    entry: Mapping[str, Any],
    conditions: Mapping[str, Any],
    settings: Mapping[str, Any],
    by_llama_cpp: bool = False,
) -> list[str]:
    level, first, at = f"{100 * settings['confidence']:g}%", rows.iloc[0], COSTS[cost][0]
    if entry["kind"] == "accuracy":
        what = f"accuracy in per cent (`{first['metric']}`, {items(rows['n'])}) with Wilson's {level} interval; "
        what += "tests are exact McNemar, where items share templates also by template (the larger p)"
    else:
        unit = "bits per byte" if entry["kind"] == "bits" else "perplexity per token"
        what = f"{unit}, lower is better, with a {level} t interval; tests are paired t over blocks of windows"
    how = "answered by llama.cpp on its file."
    if not by_llama_cpp:
        how = "evaluated as what its file holds, dequantised in the same harness; llama.cpp also rounds activations."
    found = [
        f"{entry['title']}: {what}, on the same items, by Holm's adjustment over the rows.",
        f"Files: one GGUF file per row, unquantised ones as F16. A row with a type is {how}",
        f"Best alternative: of the dense model and smaller ones, in any type, that do not cost more ({at}), the one "
        "that did best on these very items, which favours it. None: every alternative costs more. Front, ✓: no row "
        "beats it in quality at that cost or less; (✓): not by more than the intervals.",
    ]
    if conditions:
        own = conditions
        found.append(
            f"llama.cpp (llama-cpp-python {own['llama_cpp']}) on {own['device']}, {own['threads']} threads: a prompt "
            f"of {own['prompt_tokens']:,} tokens, then {own['decode_tokens']} one at a time; medians of "
            f"{own['rounds']} rounds, each in turn with the unquantised dense file. Memory: what loading and one "
            "prompt add, mapped weights included."
        )
    if "equal_answers" in rows and (own := rows[rows["type"].notna()]).size:
        shares = "; ".join(f"{row.label} {percent(row.equal_answers)[0]}%" for row in own.itertuples())
        found.append(
            f"The harness on the values of these files gives the same answer to so many of "
            f"these {own['equal_n'].iloc[0]} questions: {shares}."
        )
    pairs = dict.fromkeys(zip(rows["type"], rows["stored"], strict=True))
    if odd := [f"{kind.upper()} as {stored}" for kind, stored in pairs if alternatives.falls_back(kind, stored)]:
        found.append(
            "Rows that are no whole blocks of 256 values are stored by llama.cpp in larger types of blocks of 32: "
            f"{', '.join(odd)}, in most matrices."
        )
    if before := [model for model in settings["quantised_before"] if model in {*rows["model"], *rows["of"]}]:
        found.append(
            f"Made from a file that was quantised already: {', '.join(f'`{model}`' for model in before)}. What that "
            "lost is in every row; types of as many bits cost the dense model less than they would cost the original."
        )
    return found
