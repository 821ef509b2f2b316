"""Latency of one shape, dense and with narrower FFNs, with random weights: a CSV, one row a variant."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def latency(
    settings: cli.Settings,
    output: Annotated[Path, typer.Option(help="CSV")],
    architecture: Annotated[
        Path | None, typer.Option(help="config.json of the dense model; not needed if `changes` holds a whole one")
    ] = None,
    mask: Annotated[list[str] | None, typer.Option(metavar="LABEL=PATH", help="a pruned model's mask; repeat")] = None,
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    import pandas as pd
    import torch

    from pruning.analysis import latency as stage
    from pruning.core import artifacts, out_of_memory
    from pruning.methods import masks
    from pruning.methods.allocation import kept

    torch.set_num_threads(threads)
    cli.phase("start-up")
    try:
        raw = json.loads(architecture.read_text(encoding="utf-8")) if architecture else {}
    except (OSError, ValueError) as error:
        raise cli.InputError(f"{architecture}: {error}") from None
    config = stage.configuration(raw, settings["changes"])
    prompt_tokens, decode_tokens, rounds = (settings[key] for key in ("prompt_tokens", "decode_tokens", "rounds"))
    stage.check_context(prompt_tokens, decode_tokens, config)
    device = stage.choose_device(settings["device"])

    full, layers = config.intermediate_size, config.num_hidden_layers
    variants = {"dense": (full,) * layers}
    for sparsity in settings["sparsities"]:
        variants[f"uniform/{sparsity}"] = (kept(full, sparsity),) * layers
    for label, _, path in (pair.partition("=") for pair in mask or ()):
        if not path or label in variants:
            raise cli.InputError(f"--mask {label}={path}: expected LABEL=PATH with a label of its own")
        if len(masks.structures_of(artifacts.read_parquet(Path(path), "mask"))) > 1:
            raise cli.InputError(f"{path}: cuts key-value groups: only whole models are timed with those (`tradeoff`)")
        widths = masks.rows(Path(path), "mask").groupby("layer")["keep"].sum().tolist()
        stage.check_widths(widths, config, path)
        # A padded model's file holds the widest, everywhere.
        variants[label] = (max(widths),) * layers if label in settings["padded"] else tuple(widths)
    label_of: dict[tuple[int, ...], str] = {}  # equal widths are measured once, under their first label
    for label, widths in variants.items():
        label_of.setdefault(widths, label)

    with out_of_memory.advise(
        f"`prompt_tokens: {prompt_tokens}` and a model of random weights: lower it, or take a smaller dtype"
    ):
        dense = stage.build(config, getattr(torch, settings["dtype"]), device)
        models = {
            label: dense if label == "dense" else stage.narrowed(dense, widths) for widths, label in label_of.items()
        }
        cli.phase("load")
        samples = stage.measure(models, prompt_tokens, decode_tokens, rounds, settings["warmup"], settings["seed"])
    samples = samples.pivot(index="round", columns="variant")
    dense_flops = stage.prefill_flops(config, variants["dense"], prompt_tokens)

    rows = []
    for label, widths in variants.items():
        measured = label_of[widths]
        row = {
            "shape": settings["shape"],
            "variant": label,
            "sparsity": 1 - sum(widths) / (full * layers),
            "device": stage.device_name(device),
            "dtype": settings["dtype"],
            "threads": threads,
            "prompt_tokens": prompt_tokens,
            "decode_tokens": decode_tokens,
            "rounds": rounds,
            "parameters": stage.parameters(models[measured]),
            **stage.timings(samples, measured, settings),
        }
        rows.append(row)
    frame = pd.DataFrame(rows)
    ratios = [dense_flops / stage.prefill_flops(config, widths, prompt_tokens) for widths in variants.values()]
    frame.insert(frame.columns.get_loc("decode_tokens_per_s"), "flop_ratio", ratios)
    artifacts.write_csv(output, frame, settings)
    print(frame[["variant", "prefill_s", "prefill_speedup", "flop_ratio", "decode_speedup"]].to_string(index=False))


if __name__ == "__main__":
    cli.run(latency)
