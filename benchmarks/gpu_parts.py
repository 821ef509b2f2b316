"""What gpu.py measures: one function for each part, which yields rows as it finds them.

Random weights in published shapes go through the project's own functions. What is expected is what `estimate` counts
(command/work.py), on a card of this machine's own speed, in full; of prompts and decoding the bound of that card.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import calibration as passes
import generation as answering
import memory
import numpy as np
import pandas as pd
import surgeon
import torch
import yaml
from common import taken
from tokenizers import Tokenizer
from torch import nn
from torch.utils.benchmark import timer
from transformers import PreTrainedTokenizerFast

from pruning.analysis import shapes, timing
from pruning.calibration.prepare import Batch, as_batches
from pruning.command import cards, config_file, work
from pruning.core import names
from pruning.evaluation import generation, recovery
from pruning.evaluation.answers import AnswerFile, CachingLM
from pruning.methods import refit, variants
from pruning.models import head, loading
from pruning.models.checkpointing import checkpoint_gradients

Row = dict[str, Any]
Rows = Iterator[Row]
REASONER = names.HOME / "resources/tiny-reasoner"
REFERENCE = Path(__file__).with_name("table1.csv")
"""results/table1.csv as `make table1` makes it on a CPU."""
LARGEST = "qwen2_5-7b"
TINY = {"hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "vocab_size": 1536, "max_position_embeddings": 1024}
TRAINING = {"epochs": 16, "rates": [1e-3]}  # a rate alone: all layers but the first try no other
COUNTED, REHEARSED, BOUND = "estimate, at full speed", "rehearsal", "bound"
TABLE_TINY = {
    "datasets": {"gsm_symbolic": {"splits": {"train": 40, "test": 12}}},
    "calibrations": {"gsm_symbolic-s0": {"samples": 12, "sequence_length": 64, "micro_batch": 2}},
    "tasks": {"gsm_symbolic": {"limit": 8}, "gsm_symbolic_options": {"limit": 8}},
    "tables": {"table1": {"sparsities": [50], "methods": ["wanda"], "paper": None}},
}


def row(what: str, measured: float, unit: str, expected: float | None = None, by: str = "") -> Row:
    """by: what is expected is counted by."""
    return {"what": what, "measured": measured, "unit": unit, "expected": expected, "by": by}


class Machine:
    """Where it is measured, and how large."""

    def __init__(self, device: str, tiny: bool, scratch: Path) -> None:
        self.device, self.tiny, self.scratch = device, tiny, scratch
        self.dtype = "bfloat16" if device == "cuda" else "float32"
        self.repeats = 1 if tiny else 3

    @cached_property
    def card(self) -> cards.Card:
        return cards.measured(self.device, self.dtype)._replace(share=1)

    def size(self, whole: int, tiny: int) -> int:
        return tiny if self.tiny else whole

    def shape(self, name: str, **changes: Any) -> Path:
        """Return a folder with the config.json of a published shape."""
        config = json.loads((work.SHAPES / name / "config.json").read_text())
        folder = self.scratch / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config | (TINY if self.tiny else {}) | changes))
        return folder

    def built(self, folder: Path) -> nn.Module:
        return shapes.build(loading.stock_config(folder), self.dtype, self.device)

    def ids(self, rows: int, length: int) -> torch.Tensor:
        torch.manual_seed(0)
        return torch.randint(1536, (rows, length), device=self.device)

    def batches(self, samples: int, length: int) -> list[Batch]:
        """Return micro-batches of one sample of random tokens."""
        return as_batches(self.ids(samples, length).split(1))

    def moved(self, batch: Batch) -> Batch:
        """Return it on the device, as a pass of the project's own has it."""
        return Batch(batch.samples, *(own.to(self.device) for own in (batch.ids, batch.counted, batch.objective)))

    def timed(self, run: Callable[[], Any], repeats: int | None = None) -> tuple[float, float]:
        """Return seconds (the median), and GB at most beside what was there before. repeats: 0 for once, cold."""
        repeats = self.repeats if repeats is None else repeats
        if repeats:
            run()  # warms up
        return taken(run, self.device, max(repeats, 1))

    def expected(self, folder: Path, rule: str, settings: Row, **others: Any) -> tuple[float, float]:
        """Return seconds of a job as `estimate` plans it, without reading the weights, and GB beside these on a GPU.

        settings: of its calibration or tuning. others: its method's definition, and its sparsity."""
        section, key = ("tunings", "tuning") if rule == "recover" else ("calibrations", "calib")
        source = {"kind": "local", "path": str(folder)}
        given = {"models": {folder.name: {"source": source, "dtype": self.dtype, "gpus": 1}}}
        given[section] = {"own": {"dataset": "gsm_symbolic"} | settings}
        given["methods"] = {"own": {"score": "wanda"} | others.pop("method", {})}
        wildcards = {"model": folder.name, key: "own", "method": "own", **others}
        job = work.Job(work.Run(config_file.whole(given), self.card), rule, wildcards)
        own = job.settings["own"].model_dump() | {"training": "training" in given["methods"]["own"]}
        taken = work.STAGES[job.kind].taken(job.run.network(folder.name), own)
        reading = job.shape.parameters * job.shape.size / work.READING
        return job.seconds - reading, (taken.bytes - taken.spared) / 1e9


# The parts -----------------------------------------------------------------------------------------------------------


def calibration(on: Machine, shape: str) -> Rows:
    """The pass of two objectives, plain and with layers computed again, and the bare forward and backward passes."""
    folder, samples, length = on.shape(shape), 4, on.size(2048, 32)
    network, batches, tokens = on.built(folder), on.batches(samples, length), samples * length
    bare, _ = on.timed(lambda: passes.bare(network, [on.moved(batch) for batch in batches]))
    text = {"samples": samples, "sequence_length": length, "micro_batch": 1, "objectives": ["energy", "ce"]}
    for again in (False, True):
        own, what = text | {"gradient_checkpointing": again}, "calibration" + ", layers computed again" * again
        if again:
            checkpoint_gradients(network)
        seconds, held = on.timed(lambda: passes.measured(network, batches, text["objectives"]))
        counted, rehearsed = on.expected(folder, "statistics", own)
        yield row(what, tokens / seconds, "tokens/s", tokens / counted, COUNTED)
        yield row(f"{what}: beside the weights", held, "GB", rehearsed, REHEARSED)
        if not again:
            yield row("bare forward, two backward passes", tokens / bare, "tokens/s", tokens / seconds, "calibration")


def obs(on: Machine, shape: str) -> Rows:
    """The ranking of one FFN's neurons."""
    config = json.loads((on.shape(shape) / "config.json").read_text())
    width, hidden = config["intermediate_size"], config["hidden_size"]
    seconds, held = surgeon.cost_of(width, hidden, on.device)
    yield row(f"OBS of one layer of {width:,} neurons", seconds, "s")
    whole = 8 * (4 * width**2 + 2 * hidden * width) / 1e9
    yield row("OBS: memory", held, "GB", whole, "methods/surgeon.py, as it says")


def reconstruction(on: Machine, shape: str) -> Rows:
    """What is done with one layer at 30%: least squares of FFN and attention, and training after it."""
    folder, samples, length = on.shape(shape, num_hidden_layers=1), on.size(64, 10), on.size(2048, 32)
    text = {"samples": samples, "sequence_length": length, "micro_batch": 1}
    for scheme, plan in (("attention", None), ("block", TRAINING)):
        network = on.built(folder)
        width = network.config.intermediate_size
        keeps = {"ffn": [np.arange(width) < round(0.7 * width)]}
        made = refit.refit(network, on.batches(samples, length), keeps, scheme, plan=plan)
        seconds, held = on.timed(lambda made=made: next(made), repeats=0)
        method = {"compensate": f"ridge_{scheme}"} | ({"training": plan} if plan else {})
        counted, rehearsed = on.expected(folder, "refit", text, method=method, sparsity="30")
        what = f"`compensate: ridge_{scheme}`, one layer, {samples} x {length} tokens"
        yield row(what, seconds, "s", counted, f"{COUNTED}, with the head")
        yield row(f"{what}: beside the weights", held, "GB", rehearsed, REHEARSED)


def training(on: Machine, shape: str) -> Rows:
    """A step of LoRA, and of distillation from the dense model, at 30%, with the teacher's pass."""
    folder, rows, length = on.shape(shape), on.size(8, 2), on.size(512, 32)
    dense, ids = on.built(folder), on.ids(rows, length)
    width, layers = dense.config.intermediate_size, dense.config.num_hidden_layers
    own = memory.LORA | {"batch_size": rows, "sequence_length": length, "steps": 1, "gradient_checkpointing": True}
    network = shapes.narrowed(dense, {"ffn": [round(0.7 * width)] * layers})
    tuned = recovery.with_adapters(network, own)
    checkpoint_gradients(network)
    optimizer = torch.optim.AdamW([each for each in tuned.parameters() if each.requires_grad], weight_decay=0.0)
    for objective, teacher in (("cross_entropy", None), ("distillation", dense)):

        def step(teacher: nn.Module | None = teacher) -> None:
            with torch.no_grad():
                told = teacher and (partial(head.logits_of, teacher), head.hidden_states(teacher, ids))
            recovery.backward(tuned, ids, ids, None, told)
            optimizer.step()
            optimizer.zero_grad()

        seconds, held = on.timed(step)
        counted, rehearsed = on.expected(folder, "recover", own | {"objective": objective}, sparsity="30")
        what = f"LoRA step of {rows} x {length} tokens, {objective}"
        yield row(what, rows * length / seconds, "tokens/s", rows * length / counted, COUNTED)
        yield row(f"{what}: beside the weights", held, "GB", rehearsed, REHEARSED)


def speed(on: Machine, shape: str) -> Rows:
    """Prompts and decoding, dense and compact, all timed in turn in the dense model's memory."""
    dense = on.built(on.shape(shape))
    full, layers, models = dense.config.intermediate_size, dense.config.num_hidden_layers, {"dense": dense}
    for sparsity in (30, 50):
        for multiple in (1, 64, 128):
            width = round(full * (1 - sparsity / 100) / multiple) * multiple
            width -= multiple == 1 and width % 2 == 0  # a multiple of nothing else
            models[f"{sparsity}%, x {multiple}: {width:,}"] = shapes.narrowed(dense, {"ffn": [width] * layers})
    for rows, prompt, decoded in ((1, 2048, 32), (8, 512, 0), (32, 128, 32)):
        prompt, decoded = on.size(prompt, 32), on.size(decoded, decoded and 4)
        how = {"prompt_tokens": prompt, "decode_tokens": decoded, "batch": rows, "rounds": on.size(5, 2), "warmup": 1}
        how |= {"seed": 0, "confidence": 0.95, "resamples": 2000}
        samples, bounds = timing.by_variant(timing.measure(models, how)), {}
        for part in timing.PARTS[: 2 if decoded else 1]:
            if part == "prefill" and rows == 32:
                continue
            where = f"{part} {rows} x {prompt}" if part == "prefill" else f"decoding, batch {rows}, after {prompt}"
            for label, model in models.items():
                bounds[label] = bound(on.card, model, rows, prompt, decoded if part == "decode" else 0)
                own, ratio = samples[label][f"{part}_s"], bounds["dense"] / bounds[label]
                if label == "dense":
                    tokens = rows * (decoded if part == "decode" else prompt)
                    yield row(f"{where}: dense", tokens / own.median(), "tokens/s", tokens / bounds[label], BOUND)
                    continue
                found = timing.speedup(samples["dense"][f"{part}_s"], own, 0.95, 2000, 0)
                said = row(f"{where}: {label}", found[0], "x the dense speed", ratio, BOUND)
                yield said | {"interval": [None if np.isnan(end) else end for end in found[1:]]}


def bound(card: cards.Card, model: nn.Module, rows: int, prompt: int, decoded: int) -> float:
    """Return the least seconds of a prefill, or of decoding so many tokens after it: of each token's products, or of
    reading all weights once and keys and values, what takes longer."""
    if not decoded:
        return rows * shapes.prefill_flops(model, prompt) / (card.tflops * 1e12)
    shape = work.shape_of(model)
    read = shape.size * (shape.parameters + rows * shape.cached * (prompt + decoded / 2))
    return decoded * max(2 * rows * shape.parameters / (card.tflops * 1e12), read / (card.gbps * 1e9))


def generating(on: Machine, shape: str) -> Rows:
    """Answers of our backend, of lm-eval's own class, and in vLLM where that is installed."""
    folder, problems, tokens = on.shape(shape), on.size(64, 4), on.size(128, 8)
    network, tokenizer = on.built(folder), words(json.loads((folder / "config.json").read_text())["vocab_size"])
    asked, generation.REPEATED = answering.prompts(problems, 1), tokens + 1  # random weights repeat themselves: no end
    rates = {}
    for own in answering.compared(network, tokenizer, asked, problems, tokens):
        rates[own["name"]] = problems * tokens / own["seconds"]
        what = f"{problems} answers of {tokens} tokens, {own['name']} ({own['same']} the same as lm-eval's)"
        yield row(what, rates[own["name"]], "tokens/s", rates["lm-eval"], "lm-eval")
    if find_spec("vllm") is None:
        yield {"what": "vLLM", "note": "not installed"}
        return
    from pruning.evaluation.backends import vllm

    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del network
    variant, settings = variants.Parts(folder, folder / "manifest.json"), {"dtype": on.dtype, "max_model_len": 1024}
    with vllm.opened(variant, settings) as (engine, own):
        lm = CachingLM(vllm.lm(engine, own, problems), AnswerFile(folder / "answers.jsonl"))
        _, seconds = answering.answered(lm, asked, tokens)
    yield row(f"{problems} answers, vLLM", problems * tokens / seconds, "tokens/s", rates["lm-eval"], "lm-eval")


def words(size: int) -> PreTrainedTokenizerFast:
    """The embedded model's tokenizer, with words that no text has up to so many."""
    content = json.loads((REASONER / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"<{number}>": number for number in range(len(content["model"]["vocab"]), size)}
    backend = Tokenizer.from_str(json.dumps(content))
    ends = dict.fromkeys(("eos_token", "pad_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **ends)


def table1(on: Machine) -> Rows:
    """The pipeline itself on the embedded model, against the same table as a CPU made it."""
    given: Row = {**TABLE_TINY} if on.tiny else {}
    given["models"] = {"tiny-reasoner": {"gpus": int(on.device == "cuda"), "threads": 1}}
    (on.scratch / "gpu.yaml").write_text(yaml.safe_dump(given))
    command = ["python", "-m", "snakemake", "results/table1.csv", "--snakefile", str(names.HOME / "Snakefile")]
    command += ["--directory", str(on.scratch), "--configfile", str(on.scratch / "gpu.yaml")]
    command += ["--quiet", "rules", "reason"]
    start = timer()
    if subprocess.run([*command, "--cores", str(os.cpu_count())]).returncode:
        sys.exit("snakemake failed: see the log")
    yield row("Table 1, all jobs", timer() - start, "s")
    keys = ["method", "sparsity", "task", "metric"]
    both = [pd.read_csv(file).set_index(keys) for file in (on.scratch / "results/table1.csv", REFERENCE)]
    pair = both[0].join(both[1], how="inner", rsuffix="_cpu")
    inside = pair["value"].between(pair["ci_low_cpu"], pair["ci_high_cpu"])
    apart = 100 * (pair["value"] - pair["value_cpu"]).abs()
    yield row("Table 1: cells within the CPU's 95% interval", int(inside.sum()), "cells", len(pair), "all cells")
    yield row("Table 1: largest difference from the CPU's", float(apart.max()), "points")


def run(part: str, shape: str, device: str, tiny: bool, output: Path, threads: int) -> None:
    """Measure one part. Each row is a line of `output`, written as soon as it is there."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch, output.open("w") as file:
        for found in globals()[part](Machine(device, tiny, Path(scratch)), *([shape] if shape else [])):
            file.write(json.dumps(found) + "\n")
            file.flush()
