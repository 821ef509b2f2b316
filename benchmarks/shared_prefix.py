"""Greedy answers after worked examples that all prompts share, their keys and values held once or for every row.

Prints seconds, bytes of keys and values at the end, the ratios, and how many answers are the same.

    python benchmarks/shared_prefix.py results/smollm2-135m/base --rows 48 --examples 8 --tokens 64 --threads 2
"""

import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import typer

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import torch

from pruning.command.config_file import whole
from pruning.data import word_problems
from pruning.evaluation import generation, shared_prefix
from pruning.models import loading

TEMPLATES = whole().datasets["gsm_symbolic"].templates


def main(
    model: Annotated[Path, typer.Argument(help="model directory")],
    rows: int = 48,
    examples: int = 8,
    tokens: int = 64,
    threads: int = 1,
    rounds: int = 1,
    dtype: str = "float32",
) -> None:
    torch.set_num_threads(threads)
    network, tokenizer = loading.load(model, dtype)
    drawn = list(word_problems.sample("test", TEMPLATES, rows + examples, 0, 1.0))
    worked = "".join(f"Question: {p.question}\nAnswer: {p.answer}\n\n" for p in drawn[:examples])
    prompts = [tokenizer(f"{worked}Question: {p.question}\nAnswer:")["input_ids"] for p in drawn[examples:]]
    shared = generation.common_prefix(prompts)
    prefix = generation.prefix_cache(network, prompts[0][:shared])
    caches = []

    def repeated(model: torch.nn.Module, _: int) -> generation.DynamicCache:
        cache = once(model)
        for layer, own in zip(cache.layers, prefix.layers, strict=True):
            layer.update(own.keys.repeat_interleave(rows, 0), own.values.repeat_interleave(rows, 0))
        caches.append(cache)
        return cache

    def kept(model: torch.nn.Module, shared: int = 0) -> generation.DynamicCache:
        caches.append(once(model, shared))
        return caches[-1]

    def never(*_) -> bool:
        return False

    once = generation.new_cache
    ways = {"repeated": (repeated, lambda *_: nullcontext()), "held once": (kept, shared_prefix.attending)}
    seconds, held, answers = {name: [] for name in ways}, {}, {}
    for _ in range(rounds):
        for name, (new_cache, attending) in ways.items():
            with patch.object(generation, "new_cache", new_cache), patch.object(shared_prefix, "attending", attending):
                start = time.perf_counter()
                made = generation.greedy(network, prompts, tokens, never, pad=0, prefix=prefix, shared=shared)
                seconds[name].append(time.perf_counter() - start)
            answers[name] = [row.tokens for row in made]
            held[name] = sum(buffer.nbytes for layer in caches.pop().layers for buffer in layer.buffers)
    held["held once"] += sum(buffer.nbytes for layer in prefix.layers for buffer in layer.buffers)
    same = sum(a == b for a, b in zip(*answers.values(), strict=True))
    print(f"{rows} rows, {shared} tokens shared, {max(map(len, prompts)) - shared} of their own at most")
    for name in ways:
        took = sorted(seconds[name])[rounds // 2]
        print(
            f"{name}: {took:.1f} s ({sorted(seconds['repeated'])[rounds // 2] / took:.2f}x), keys and values "
            f"{held[name] / 1e6:.0f} MB ({held['repeated'] / held[name]:.1f}x less)"
        )
    print(f"{same} of {rows} answers the same")


if __name__ == "__main__":
    typer.run(main)
