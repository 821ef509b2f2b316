"""How long it takes to plan a grid of ten thousand jobs: a dry-run of `snakemake` in an empty folder.

The embedded model's experiment with more calibration texts: each asks every method at every sparsity for every task,
in jobs of their own.

    python benchmarks/planning.py
"""

import re
import tempfile
import time
from pathlib import Path
from statistics import median

import typer
import yaml
from common import snakemake


def grid(calibrations: int) -> dict:
    """Only what differs from config/config.yaml."""
    text = {"dataset": "gsm_symbolic", "samples": 512, "sequence_length": 256, "packing": "document"}
    text["objectives"] = ["energy", "energy_post", "energy_last", "energy_rest", "ce"]
    names = {f"text-{seed}": {**text, "seed": seed} for seed in range(calibrations)}
    table = {"title": "A grid", "calibrations": list(names), "sparsities": list(range(5, 95, 5))}
    table["tasks"] = ["gsm_symbolic", "arithmetic"]
    experiment = {"calibrations": list(names), "together": []}
    return {"calibrations": names, "experiment": experiment, "tables": {"grid": table}, "readings": None}


def main(calibrations: int = 20, rounds: int = 3) -> None:
    times: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch, "grid.yaml")
        config.write_text(yaml.safe_dump(grid(calibrations)))
        command = ["-n", "--cores", "1", "--directory", scratch, "--configfile", config]
        command += ["--config", "confirm=true", "--quiet", "rules", "--", "results/grid.csv"]
        for number in range(rounds):
            began = time.perf_counter()
            done = snakemake(*command)
            times.append(time.perf_counter() - began)
            jobs = re.search(r"^total +(\d+)", done.stdout, re.M)[1]
            print(f"round {number + 1}: {jobs} jobs in {times[-1]:.1f} s", flush=True)
    print(f"median {median(times):.1f} s")


if __name__ == "__main__":
    typer.run(main)
