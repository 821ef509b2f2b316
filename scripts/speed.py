"""Size and speed of the very models of the tables: a CSV, one row a model. Each is timed in turn with the dense one,
and no others are in memory.

Models of equal FFN widths (and biases) run the same arithmetic: one of them is timed for all, so that they do not
differ by the noise of a clock.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def speed(
    settings: cli.Settings,
    variant: Annotated[
        list[str],
        typer.Option(metavar="JSON", help="`variant`, and paths and scheme of its parts; repeat"),
    ],
    output: Annotated[Path, typer.Option(help="CSV")],
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    import pandas as pd
    import torch

    from pruning.analysis import latency
    from pruning.core import artifacts, out_of_memory
    from pruning.methods import variants

    torch.set_num_threads(threads)
    cli.phase("start-up")
    given = {part.pop("variant"): part for part in map(json.loads, variant)}
    parts = {
        label: variants.Parts(**{key: value if key == "compensate" else Path(value) for key, value in part.items()})
        for label, part in given.items()
    }
    labels: dict[tuple, str] = {}  # outline -> the first model of it
    outlines = {label: variants.outline(part) for label, part in parts.items()}
    for label, outline in outlines.items():
        labels.setdefault(outline, label)

    def load(label: str):
        return variants.load(parts[label], settings["dtype"])[0]

    prompt_tokens, decode_tokens = settings["prompt_tokens"], settings["decode_tokens"]
    with out_of_memory.advise(f"two models and `tradeoff.prompt_tokens: {prompt_tokens}`: lower it"):
        dense = load("dense")
        latency.check_context(prompt_tokens, decode_tokens, dense.config)
        cli.phase("load")
        rounds = {}
        for number, label in enumerate(label for label in labels.values() if label != "dense"):
            models = {"dense": dense, label: load(label)}
            seed = settings["seed"] + number
            rounds[label] = latency.measure(
                models, prompt_tokens, decode_tokens, settings["rounds"], settings["warmup"], seed
            )
            del models
    samples = pd.concat(rounds, names=["beside", None]).reset_index("beside")
    samples = samples.pivot(index=["beside", "round"], columns="variant")

    rows = []
    for label, part in parts.items():
        timed = labels[outlines[label]]
        row = {
            "model": settings["model"],
            "variant": label,
            "parameters": variants.pruned(part)["parameters_kept"],
            "bytes": variants.stored(part),
            "timed": timed,
            "device": latency.device_name(dense.device),
            "dtype": settings["dtype"],
            "threads": threads,
            "prompt_tokens": prompt_tokens,
            "decode_tokens": decode_tokens,
            "rounds": settings["rounds"],
            **latency.timings(samples, timed, settings),
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    artifacts.write_csv(output, frame, settings, digits=9)
    shown = frame[frame["timed"] == frame["variant"]]
    print(shown[["variant", "bytes", "prefill_s", "prefill_speedup", "decode_speedup"]].to_string(index=False))


if __name__ == "__main__":
    cli.run(speed)
