"""Latencies of all shapes. Files: `shapes`, a CSV of scripts/timing.py each."""

from typing import Any

import pandas as pd

from pruning.core import artifacts
from pruning.report import printing
from pruning.report.files import Files
from pruning.report.printing import Block, memory, speedup


def make(files: Files, settings: dict[str, Any]) -> printing.Page:
    frames = [artifacts.read_csv(path) for path in files.all("shapes")]
    blocks = [block(frame) for frame in frames]
    return printing.Page("latency", "Latency: what smaller FFNs gain", pd.concat(frames, ignore_index=True), blocks)


def block(rows: pd.DataFrame) -> Block:
    """One shape's rows to print: speed-ups over the dense model with their intervals, and the bound by arithmetic."""
    first = rows.iloc[0]
    lines = []
    for row in rows.itertuples():
        cells = [f"{100 * row.sparsity:.1f}", f"{row.parameters / 1e6:,.2f}", f"{1000 * row.prefill_s:,.1f}"]
        cells += [speedup(row, "prefill"), f"{row.flop_ratio:.2f}", f"{row.decode_tokens_per_s:,.1f}"]
        lines.append((f"`{row.variant}`", [*cells, speedup(row, "decode"), memory(row.peak_memory_mb)]))
    notes = [
        f"Random weights, {first['dtype']}, on {first.device} with {first.threads} threads; medians of {first.rounds} "
        f"rounds in each of which every variant was measured once, in changing order. Prefill: {first.prompt_tokens:,} "
        f"tokens; decoding: {first.decode_tokens} tokens, one at a time, after that prompt. In brackets: bootstrap "
        "interval of the median ratio to the dense model of the same round.",
        "Bound: the dense model's multiply-adds over the variant's in prefill, the most that doing less can gain; what "
        "is beyond it comes from elsewhere, such as smaller matrices that fit a cache.",
        "The paper reports 0.1519 s to 0.1066 s (1.42x) for 2,048 tokens at 50% on an RTX 4090, Qwen2.5-7B.",
    ]
    columns = ["Sparsity (%)", "Parameters (M)", "Prefill (ms)", "Prefill speed-up", "Bound", "Decoding (tokens/s)"]
    columns += ["Decoding speed-up", "Peak memory (MB)"]
    title = f"Dense and compact models in the shape of `{first['shape']}`"
    return Block(first["shape"], title, columns, lines, notes, head="Variant")
