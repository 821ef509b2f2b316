"""Exported models in the tools that people run: do they load, and how far are their logits from our own loader's?

Variants of the embedded model are made by the workflow (uniform, of different widths, padded, recovered; and files for
llama.cpp) unless they are there. Prints what the checks of each export found.

    python benchmarks/runtimes.py
"""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import typer
import yaml
from common import snakemake

MODEL, CALIB, TUNING = "tiny-reasoner", "gsm_symbolic-s0", "gsm_symbolic"
PADDED = {"score": "utility", "options": {"objective": "energy", "reduction": "abs"}}
PADDED |= {"allocate": "global", "export": "pad"}


def main(sparsity: int = 40, cores: int = 2) -> None:
    variants = {
        "uniform": f"{CALIB}/wanda/{sparsity}",
        "of different widths": f"{CALIB}/agf_global/{sparsity}",
        "the same, padded": f"{CALIB}/agf_global_padded/{sparsity}",
        "uniform, recovered": f"{CALIB}/wanda/{sparsity}/{TUNING}",
    }
    kinds = ["f16", "q8_0", *(["q4_k_m"] if find_spec("llama_cpp") else [])]
    folders = {name: Path("results", MODEL, "export", variant) for name, variant in variants.items()}
    targets = [folder / own for folder in folders.values() for own in ("model", *(f"gguf/{k}.gguf" for k in kinds))]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as changes:
        yaml.safe_dump({"methods": {"agf_global_padded": PADDED}}, changes)
        changes.flush()
        snakemake("--cores", cores, "--configfile", changes.name, "--quiet", "--", *targets)
    rows = []
    for name, folder in folders.items():
        for own in ("model/manifest.json", *(f"gguf/{kind}.json" for kind in kinds)):
            for tool, check in json.loads((folder / own).read_text())["checks"].items():
                rows.append({"variant": name, "of": Path(own).stem, "in": tool} | check)
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".1e"))
    if not find_spec("llama_cpp"):
        print("llama.cpp: not installed (pip install llama-cpp-python); its files were made and not tried")


if __name__ == "__main__":
    typer.run(main)
