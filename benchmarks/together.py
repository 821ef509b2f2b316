"""One pruned model on all tasks: a job a task from a model on disk, or one job that cuts the dense model in memory.

Both start from the same mask, in folders of their own, and must make the same table to the byte.

    python benchmarks/together.py                                                    the embedded model, seven tasks
    python benchmarks/together.py --configfile config/smollm2-135m.yaml --config data_folder=/path/to/folder
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
import yaml
from common import ROOT, experiment, snakemake

METHOD, SPARSITY = "wanda", 40


def main(
    configfile: Annotated[Path, typer.Option(help="an experiment")] = ROOT / "config/config.yaml",
    config: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; repeat")] = None,
    cores: int = 2,
) -> None:
    whole = experiment(configfile, config)
    asked = [task.split("@")[0] for table in whole["tables"].values() if table for task in table["tasks"]]
    tasks, [model, *_] = list(dict.fromkeys(asked)), whole["experiment"]["models"]
    calib = whole["experiment"]["calibrations"][0]
    found = {}
    for name, together, compact in (("apart", [], "keep"), ("together", [tasks], "memory")):
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        shutil.copytree(ROOT / "resources", folder / "resources")
        table = {"title": "All tasks", "tasks": tasks, "sparsities": [SPARSITY]}
        table |= {"methods": [METHOD], "reference": METHOD}
        changes = {"experiment": {"together": together}, "storage": {"compact": compact}, "tables": {"all": table}}
        (folder / "changes.yaml").write_text(yaml.safe_dump(changes))
        options = ["--cores", cores, "--directory", folder]
        options += ["--configfile", configfile.absolute(), folder / "changes.yaml"]
        options += ["--config", *config] if config else []
        mask = f"results/{model}/masks/{calib}/{METHOD}/{SPARSITY}.parquet"
        snakemake(*options, "--", mask, "results/leakage/all.csv")
        began = time.monotonic()
        snakemake(*options, "--", "results/all.csv")
        seconds = time.monotonic() - began
        logs = list((folder / f"results/logs/{model}/eval").rglob("*.log"))
        written = sum(file.stat().st_size for file in folder.glob("results/*/compact/*/*/*/model/*"))
        found[name] = ((folder / "results/all.csv").read_bytes(), seconds)
        print(f"{name}: {seconds:.0f} s, {len(logs)} loads, {written / 1e6:.0f} MB of compact models", flush=True)
        shutil.rmtree(folder)
    same = found["apart"][0] == found["together"][0]
    print(f"{len(tasks)} tasks, dense and pruned; ratio of times {found['apart'][1] / found['together'][1]:.2f}")
    print("the same table to the byte" if same else "NOT the same table")
    sys.exit(not same)


if __name__ == "__main__":
    typer.run(main)
