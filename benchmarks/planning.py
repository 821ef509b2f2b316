"""How long it takes to plan a grid of ten thousand jobs: a dry-run of `snakemake` in an empty folder.

The embedded model's experiment with more calibration texts: each asks every method at every sparsity for every task,
in jobs of their own.

    python benchmarks/planning.py                    this checkout
    python benchmarks/planning.py ../another         that one too, in turns
"""

import re
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
import yaml
from common import ROOT, snakemake


def grid(calibrations: int) -> dict:
    """Only what differs from config/config.yaml."""
    text = {"dataset": "gsm_symbolic", "samples": 512, "sequence_length": 256, "packing": "document"}
    text["objectives"] = ["energy", "energy_post", "energy_last", "energy_rest", "ce"]
    names = {f"text-{seed}": {**text, "seed": seed} for seed in range(calibrations)}
    table = {"title": "A grid", "calibrations": list(names), "sparsities": list(range(5, 95, 5))}
    table["tasks"] = ["gsm_symbolic", "arithmetic"]
    experiment = {"calibrations": list(names), "together": []}
    return {"calibrations": names, "experiment": experiment, "tables": {"grid": table}, "readings": None}


def main(
    others: Annotated[list[Path] | None, typer.Argument(help="checkouts to compare with")] = None,
    calibrations: int = 20,
    rounds: int = 3,
) -> None:
    places = [ROOT, *(others or [])]
    times: dict[Path, list[float]] = {place: [] for place in places}
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch, "grid.yaml")
        config.write_text(yaml.safe_dump(grid(calibrations)))
        for number in range(rounds):
            for place in places:
                command = ["-n", "--cores", "1", "--directory", scratch, "--configfile", config]
                command += ["--config", "confirm=true", "--quiet", "rules", "--", "results/grid.csv"]
                began = time.perf_counter()
                done = snakemake(*command, checkout=place)
                times[place].append(time.perf_counter() - began)
                jobs = re.search(r"^total +(\d+)", done.stdout, re.M)[1]
                print(f"round {number + 1}, {place}: {jobs} jobs in {times[place][-1]:.1f} s", flush=True)
    for place in places:
        print(f"{place}: median {median(times[place]):.1f} s")
        if place != ROOT:
            print(f"{median(b / a for a, b in zip(times[ROOT], times[place], strict=True)):.2f}x of this checkout's")


if __name__ == "__main__":
    typer.run(main)
