"""Greedy answers after worked examples that all prompts share, their keys and values held once or for every row.

Prints seconds, bytes of keys and values at the end, the ratios, and how many answers are the same.

    python benchmarks/shared_prefix.py results/smollm2-135m/base --rows 48 --examples 8 --tokens 64 --threads 2
"""

from contextlib import nullcontext
from math import inf
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import generation as answering
import torch
import typer
from common import seconds

from pruning.evaluation import generation, shared_prefix
from pruning.models import loading


def main(
    model: Annotated[Path, typer.Argument(help="model directory")],
    rows: int = 48,
    examples: int = 8,
    tokens: int = 64,
    threads: int = 1,
) -> None:
    torch.set_num_threads(threads)
    network, tokenizer = loading.load(model, "float32")
    prompts = [tokenizer(text)["input_ids"] for text in answering.prompts(rows, examples)]
    shared = generation.common_prefix(prompts)
    prefix = generation.prefix_cache(network, prompts[0][:shared])
    caches, generation.LONGER = [], inf  # all prompts are read together, however long they are

    def repeated(model: torch.nn.Module, _: int) -> generation.DynamicCache:
        cache = once(model)
        for layer, own in zip(cache.layers, prefix.layers, strict=True):
            layer.update(own.keys.repeat_interleave(rows, 0), own.values.repeat_interleave(rows, 0))
        caches.append(cache)
        return cache

    def kept(model: torch.nn.Module, shared: int = 0) -> generation.DynamicCache:
        caches.append(once(model, shared))
        return caches[-1]

    once = generation.new_cache
    ways = {"repeated": (repeated, lambda *_: nullcontext()), "held once": (kept, shared_prefix.attending)}
    took, held, answers = {}, {}, {}

    def run(name: str) -> None:
        made = generation.greedy(network, prompts, tokens, lambda *_: False, pad=0, prefix=prefix, shared=shared)
        answers[name] = [row.tokens for row in made]

    for name, (new_cache, attending) in ways.items():
        with patch.object(generation, "new_cache", new_cache), patch.object(shared_prefix, "attending", attending):
            took[name] = seconds(lambda name=name: run(name))
        held[name] = sum(buffer.nbytes for layer in caches.pop().layers for buffer in layer.buffers)
    held["held once"] += sum(buffer.nbytes for layer in prefix.layers for buffer in layer.buffers)
    same = sum(a == b for a, b in zip(*answers.values(), strict=True))
    print(f"{rows} rows, {shared} tokens shared, {max(map(len, prompts)) - shared} of their own at most")
    for name in ways:
        print(
            f"{name}: {took[name]:.1f} s ({took['repeated'] / took[name]:.2f}x), keys and values "
            f"{held[name] / 1e6:.0f} MB ({held['repeated'] / held[name]:.1f}x less)"
        )
    print(f"{same} of {rows} answers the same")


if __name__ == "__main__":
    typer.run(main)
