"""One pruned model on all tasks: a job a task from a model on disk, or one job that cuts the dense model in memory.

Both start from the same mask, in folders of their own, and must make the same table to the byte.

    python benchmarks/together.py                                                    the embedded model, seven tasks
    python benchmarks/together.py --configfile config/smollm2-135m.yaml --config data_folder=/path/to/folder
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
import yaml
from snakemake.cli import parse_config
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

ROOT = Path(__file__).parent.parent
METHOD, SPARSITY = "wanda", 40


def main(
    configfile: Annotated[Path, typer.Option(help="an experiment")] = ROOT / "config/config.yaml",
    config: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; repeat")] = None,
    cores: int = 2,
) -> None:
    whole = load_configfile(ROOT / "config/config.yaml")
    for own in (load_configfile(configfile), parse_config(config or [])):
        update_config(whole, own)
    asked = [task.split("@")[0] for table in whole["tables"].values() if table for task in table["tasks"]]
    tasks, [model, *_] = list(dict.fromkeys(asked)), whole["experiment"]["models"]
    calib = whole["experiment"]["calibrations"][0]
    found = {}
    for name, together, compact in (("apart", [], "keep"), ("together", [tasks], "memory")):
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        shutil.copytree(ROOT / "resources", folder / "resources")
        table = {
            "title": "All tasks",
            "tasks": tasks,
            "sparsities": [SPARSITY],
            "methods": [METHOD],
            "reference": METHOD,
        }
        changes = {
            "experiment": {"together": together},
            "storage": {"compact": compact},
            "tables": {"all": table},
        }
        (folder / "changes.yaml").write_text(yaml.safe_dump(changes))
        options = ["--configfile", str(configfile.absolute()), str(folder / "changes.yaml")]
        options += ["--config", *config] if config else []

        def run(*targets: str, folder=folder, options=options) -> float:
            began = time.monotonic()
            command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", str(cores)]
            command += ["--directory", str(folder), *options, "--", *targets]
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            return time.monotonic() - began

        run(f"results/{model}/masks/{calib}/{METHOD}/{SPARSITY}.parquet", "results/leakage/all.csv")
        seconds = run("results/all.csv")
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
