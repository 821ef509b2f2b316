"""Exported models in the tools that people run: do they load, how far are their logits, how many tokens a second?

Variants of one model are made by the workflow (uniform, of different widths, padded, recovered; and files for
llama.cpp) unless they are there. Logits are held against our own loader's; speed is one token at a time after a prompt,
each variant in turn with the dense model in the same tool, medians of the rounds.

    python benchmarks/runtimes.py                                                      the embedded model
"""

import json
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated

import pandas as pd
import torch
import typer
import yaml
from common import ROOT, experiment, snakemake

from pruning.analysis import timing

PROMPT, TOKENS = 64, 48
PADDED = {"score": "utility", "options": {"objective": "energy", "reduction": "abs"}}
PADDED |= {"allocate": "global", "export": "pad"}


def main(
    configfile: Annotated[Path, typer.Option(help="an experiment")] = ROOT / "config/config.yaml",
    config: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; repeat")] = None,
    tuning: Annotated[str, typer.Option(help="the recovered variant's")] = "gsm_symbolic",
    sparsity: int = 40,
    rounds: int = 5,
    cores: int = 2,
) -> None:
    torch.set_num_threads(cores)
    whole = experiment(configfile, config)
    [model, *_], [calib, *_] = whole["experiment"]["models"], whole["experiment"]["calibrations"]
    variants = {
        "uniform": f"{calib}/wanda/{sparsity}",
        "of different widths": f"{calib}/agf_global/{sparsity}",
        "the same, padded": f"{calib}/agf_global_padded/{sparsity}",
        "uniform, recovered": f"{calib}/wanda/{sparsity}/{tuning}",
    }
    kinds = ["f16", "q8_0", *(["q4_k_m"] if find_spec("llama_cpp") else [])]
    folder = Path("results") / model / "export"
    targets = {name: folder / variant / "model" for name, variant in variants.items()}
    files = {
        (name, kind): folder / variant / f"gguf/{kind}.gguf"
        for name, variant in {"dense": "dense", **variants}.items()
        for kind in kinds
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as changes:
        yaml.safe_dump({"methods": {"agf_global_padded": PADDED}}, changes)
        changes.flush()
        options = ["--cores", cores, "--configfile", configfile, changes.name]
        options += ["--config", *config] if config else []
        snakemake(*options, "--quiet", "--", *targets.values(), *files.values())

    dtype = whole["models"][model].get("dtype", "float32")
    print(f"{model}, {sparsity}% of the FFN neurons removed, {dtype}; {cores} cores")
    base = Path(f"results/{model}/base")
    own = {name: in_transformers(target, dtype) for name, target in targets.items()}
    speeds = in_turn({"dense": in_transformers(base, dtype), **own}, rounds)
    rows = [("dense", "transformers", megabytes(base), "", *rate(speeds, "dense"))]
    for name, target in targets.items():
        checks = json.loads((target / "manifest.json").read_text())["checks"]
        for tool, check in checks.items():
            timed = rate(speeds, name) if tool == "transformers" else ("", "")
            rows.append((name, tool, megabytes(target), f"{check['max_difference']:.1e}", *timed))
    if find_spec("llama_cpp"):
        for kind in kinds:
            speeds = in_turn({name: in_llama_cpp(files[name, kind], cores) for name in ["dense", *variants]}, rounds)
            for name in ["dense", *variants]:
                check = json.loads(files[name, kind].with_suffix(".json").read_text())["checks"]["llama.cpp"]
                apart = f"{check['max_difference']:.1e} (KL {check['kl_divergence']:.0e})"
                rows.append((name, f"llama.cpp, {kind}", megabytes(files[name, kind]), apart, *rate(speeds, name)))
    columns = ["variant", "in", "MB", "largest difference of logits", "tokens/s", "of dense"]
    print(pd.DataFrame(rows, columns=columns).to_markdown(index=False, disable_numparse=True))
    if not find_spec("llama_cpp"):
        print("llama.cpp: not installed (pip install llama-cpp-python); its files were made and not tried")


def megabytes(place: Path) -> str:
    """Of the weights."""
    files = place.glob("*.safetensors") if place.is_dir() else [place]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.0f}"


def in_turn(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Tokens a second of each, round by round, after one that does not count."""
    found = timing.in_turn(runs, {"warmup": 1, "rounds": rounds, "seed": 0}, lambda run: {"speed": run()})
    return found.groupby("variant")["speed"].agg(list).to_dict()


def rate(speeds: dict[str, list[float]], name: str) -> tuple[str, str]:
    ratios = [own / dense for own, dense in zip(speeds[name], speeds["dense"], strict=True)]
    return f"{median(speeds[name]):.1f}", f"{median(ratios):.2f}x"


def in_transformers(folder: Path, dtype: str) -> Callable[[], float]:
    from pruning.evaluation.runtimes import stock

    model = stock(folder, dtype)

    @torch.inference_mode()
    def run() -> float:
        ids = torch.arange(5, 5 + PROMPT)[None]
        state = model(ids, use_cache=True)
        began = time.perf_counter()
        for _ in range(TOKENS):
            state = model(state.logits[:, -1:].argmax(-1), cache=state.cache, use_cache=True)
        return TOKENS / (time.perf_counter() - began)

    return run


def in_llama_cpp(file: Path, threads: int) -> Callable[[], float]:
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=PROMPT + TOKENS, n_threads=threads, n_gpu_layers=0, verbose=False)

    def run() -> float:
        model.reset()
        model.eval(list(range(5, 5 + PROMPT)))
        began = time.perf_counter()
        for token in range(TOKENS):
            model.eval([5 + token])
        return TOKENS / (time.perf_counter() - began)

    return run


if __name__ == "__main__":
    typer.run(main)
