"""Quality, size and speed of the very models of other tables, and which of them no other beats.

Files: `quality`, CSVs of tables/results.py; `speed`, CSVs of scripts/timing.py. Settings: `task`, `metric`, `kind`
(`accuracy`, `perplexity` or `bits`), `title`, `confidence`.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pruning.analysis import tradeoff
from pruning.analysis.tradeoff import COSTS, FRONT
from pruning.core import artifacts
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, estimate, items, speedup

COLUMNS = [
    *("model", "calib", "method", "sparsity", "tuning", "task", "metric", "n", "value", "ci_low", "ci_high"),
    *("params_removed", "parameters", "bytes", "prefill_s", "prefill_speedup", "prefill_speedup_low"),
    *("prefill_speedup_high", "decode_tokens_per_s", "decode_speedup", "decode_speedup_low", "decode_speedup_high"),
    *("peak_memory_mb", "timed", "device", "dtype", "threads", "prompt_tokens", "decode_tokens", "rounds"),
]
MARKS = {tradeoff.FRONT: "✓", tradeoff.NEAR: "(✓)", tradeoff.BEHIND: ""}


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    quality, speed = (
        pd.concat(map(artifacts.read_csv, files.all(name)), ignore_index=True) for name in ("quality", "speed")
    )
    models = tradeoff.joined(quality, speed, settings["task"], settings["metric"])
    blocks, frames = [], []
    for model, of_model in models.groupby("model", sort=False):
        for calib in of_model["calib"].dropna().unique():
            rows = of_model[of_model["calib"].isna() | (of_model["calib"] == calib)]
            rows = rows.sort_values("sparsity", kind="stable")
            marks = {cost: tradeoff.places(rows, cost, settings["kind"] == "accuracy") for cost in COSTS}
            rows = rows[COLUMNS].assign(**{f"{cost}_front": marks[cost] for cost in COSTS})
            blocks.append(block(model, calib, rows, settings))
            frames.append(rows.assign(calib=calib))
    tidy = pd.concat(frames, ignore_index=True)
    return printing.Page("tradeoff", "What a smaller model costs and gains", tidy, blocks)


def block(model: str, calib: str, rows: pd.DataFrame, settings: Mapping[str, Any]) -> Block:
    lines = []
    for row in rows.itertuples():
        fronts = [getattr(row, f"{cost}_front") for cost in COSTS]
        cells = [estimate(settings["kind"], row.value, row.ci_low, row.ci_high, FRONT in fronts)]
        cells += [f"{row.parameters / 1e6:,.2f}", f"{row.bytes / 1e6:,.2f}", f"{1000 * row.prefill_s:,.1f}"]
        cells += [speedup(row, "prefill"), f"{row.decode_tokens_per_s:,.0f}", speedup(row, "decode")]
        cells += [MARKS[front] for front in fronts]
        lines.append((label(row._asdict()), cells))
    columns = [f"{settings['title']}", "Parameters (M)", "Weights (MB)", "Prefill (ms)", "Prefill speed-up"]
    columns += ["Decoding (tokens/s)", "Decoding speed-up", "Front: size", "Front: prefill", "Front: decoding"]
    title = f"`{model}`, calibrated on `{calib}`: {settings['title']}, size and speed"
    return Block(f"{model}-{calib}", title, columns, lines, notes(rows, settings), head="Model")


def label(row: Mapping[str, Any]) -> str:
    """As `wanda`, 30%, recovered (gsm_symbolic)."""
    if row["method"] == "dense":
        return "dense"
    recovered = f", recovered ({row['tuning']})" if isinstance(row["tuning"], str) and row["tuning"] else ""
    return f"`{row['method']}`, {round(100 * row['sparsity'])}%{recovered}"


def notes(rows: pd.DataFrame, settings: Mapping[str, Any]) -> list[str]:
    level, first = f"{100 * settings['confidence']:g}%", rows.iloc[0]
    what = {
        "accuracy": f"accuracy in per cent (`{settings['metric']}`, {items(rows['n'])}), higher is better, with "
        f"Wilson's {level} interval",
        "perplexity": f"perplexity per token, lower is better, with a {level} t interval over blocks of windows",
        "bits": f"bits per byte, lower is better, with a {level} t interval over blocks of pieces of text",
    }[settings["kind"]]
    device = f"{first['dtype']}, on {first['device']} with {first['threads']} threads"
    asked = f"prefill of {first['prompt_tokens']:,} tokens, then {first['decode_tokens']} tokens one at a time"
    return [
        f"{settings['title']}: {what}, of the choice of test items. Weights: as they lie on disk.",
        f"Speed of these very models, {device}: {asked}. Medians of {first['rounds']} rounds in each of which a model "
        f"and the dense one were measured, in changing order; speed-ups are medians of the ratio in the same round, "
        f"with a {level} bootstrap interval over the rounds. Models of equal widths run the same arithmetic: one of "
        f"each of {rows['timed'].nunique()} shapes was timed (`timed` in the CSV).",
        "Front, ✓: every model that is better is clearly larger (by more than 1%) or slower (intervals apart). (✓): "
        "not so, but the quality's interval reaches into those of all that are in the way. Bold: on one front at "
        "least. Fronts are read off these very items and rounds: no test goes with them.",
    ]
