"""All that a GPU must still show, in at most 20 minutes, without a network: random weights, nothing is fetched.

    python benchmarks/gpu.py                                  writes results/benchmarks/gpu.json and gpu.md
    python benchmarks/gpu.py --device cpu --tiny              rehearses every part in tiny shapes
    python benchmarks/gpu.py --only "speed qwen2_5-7b"        one part

Each part (gpu_parts.py) is a process of its own with a limit of time: one that fails, or takes too long, costs its own
rows, and the files are written after each. Parts that no longer fit into --minutes say so. Table 1 is compared with
benchmarks/table1.csv, which is results/table1.csv as `make table1` made it on a CPU: its values and 95% intervals.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from common import ROOT

SHAPES = ("qwen2_5-7b", "llama-3-8b", "qwen2_5-1_5b")
PARTS = {
    **{f"calibration {shape}": 120 for shape in SHAPES},
    **{"obs qwen2_5-7b": 240, "reconstruction qwen2_5-7b": 240, "training qwen2_5-7b": 120},
    **{f"speed {shape}": 150 for shape in SHAPES},
    **{"generating qwen2_5-1_5b": 180, "table1": 600},
}
"""Part and its shape -> seconds that it may take."""
LEAST = 20
"""Seconds that a part is not begun without."""
COLUMNS = ("part", "what", "measured", "unit", "expected", "ratio", "expected by")


def main(
    device: str = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="shapes for a rehearsal")] = False,
    minutes: Annotated[float, typer.Option(help="for all parts")] = 20,
    out: Annotated[Path, typer.Option(help="file to write, with .json and .md")] = Path("results/benchmarks/gpu"),
    only: Annotated[list[str] | None, typer.Option(help="a part; repeat")] = None,
    threads: Annotated[int, typer.Option(help="of the CPU; 0: all")] = 0,
    output: Annotated[Path | None, typer.Option(hidden=True, help="measure a part in this process")] = None,
) -> None:
    if unknown := {*(only or ())} - {*PARTS}:
        sys.exit(f"error: --only {unknown.pop()!r}: parts are {', '.join(PARTS)}")
    threads = threads or len(os.sched_getaffinity(0))
    if output:
        import gpu_parts

        return gpu_parts.run(*f"{only[0]} ".split(" ")[:2], device, tiny, output, threads)
    about, rows, end = conditions(device, tiny, minutes), [], time.monotonic() + 60 * minutes
    out.parent.mkdir(parents=True, exist_ok=True)
    for part in only or PARTS:
        own = ["--device", device, *(["--tiny"] if tiny else []), "--threads", str(threads), "--only", part]
        start, limit = time.monotonic(), min(PARTS[part], end - time.monotonic())
        found = finished(["python", __file__, *own], limit) if limit >= LEAST else [{"note": "no time was left"}]
        rows += [{"part": part, **each} for each in found]
        print(f"{part}: {len(found)} rows, {time.monotonic() - start:.0f} s", flush=True)
        out.with_suffix(".json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
        out.with_suffix(".md").write_text(markdown(about, rows))
    print(f"\n{out.with_suffix('.md').read_text()}")


def conditions(device: str, tiny: bool, minutes: float) -> dict[str, Any]:
    """Return what the numbers hold under. Exits, with what to do, where there is no such device."""
    import torch
    from transformers import __version__

    from pruning.analysis import timing
    from pruning.core import names  # noqa: F401 (that the library is there is found out before any part)

    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU here: rehearse with --device cpu --tiny")
    name = timing.device_name(torch.device(device))
    own = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "transformers": __version__}
    return {**own, "shapes": "tiny" if tiny else "whole", "minutes": minutes, "day": time.strftime("%Y-%m-%d")}


def finished(command: Sequence[str], limit: float) -> list[dict[str, Any]]:
    """Return the rows that a part has written, and one that says how it ended, if not well."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "scripts")}
    with tempfile.TemporaryDirectory() as scratch:
        output, log = Path(scratch, "rows.jsonl"), Path(scratch, "log")
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, "--output", str(output)], stdout=stream, stderr=stream, env=variables, start_new_session=True
            )
            try:
                ended = f"failed: {process.returncode}" if process.wait(limit) else ""
            except subprocess.TimeoutExpired:
                ended = f"stopped after {limit:.0f} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        rows = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if ended.startswith("failed"):
        ended = f"failed ({process.returncode}): {said[-1].strip()[:200] if said else 'without a word'}"
    return rows + ([{"note": ended, "log": said[-40:]}] if ended else [])


def markdown(about: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Return a table of all rows, with their conditions."""
    lines = ["; ".join(f"{key}: {value}" for key, value in about.items()), ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for each in rows:
        cells = [each["part"], each.get("what", ""), each.get("note", "")]
        if "measured" in each:
            ends, expected = each.get("interval"), each["expected"]
            interval = f" [{short(ends[0])}, {short(ends[1])}]" if ends and None not in ends else ""
            cells[2:] = [short(each["measured"]) + interval, each["unit"]]
            cells += [short(expected), f"{each['measured'] / expected:.2f}", each["by"]] if expected else []
        lines.append(f"| {' | '.join(cells + [''] * (len(COLUMNS) - len(cells)))} |")
    return "\n".join(lines) + "\n"


def short(value: float) -> str:
    """Return three digits, or all of a larger whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    typer.run(main)
