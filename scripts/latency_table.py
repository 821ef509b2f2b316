"""What widths, and numbers of key-value groups, cost in operations and in time on this machine: a parquet, one row a
number of units that every layer of a model with random weights has."""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def latency_table(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the model, of which config.json is read")],
    output: Annotated[Path, typer.Option()],
    threads: int = 1,
) -> None:
    """Settings: `dtype`, `prompt_tokens`, `decode_tokens`, `rounds`, `warmup`, `device`, `seed`."""
    cli.set_threads(threads)
    import torch

    from pruning.analysis import latency
    from pruning.analysis import latency_table as stage
    from pruning.core import artifacts, out_of_memory
    from pruning.models.checkpoint import read_config

    torch.set_num_threads(threads)
    cli.phase("start-up")
    config = latency.configuration(stage.unpruned(read_config(model)), {})
    device = latency.choose_device(settings["device"])
    plan = [settings[key] for key in ("prompt_tokens", "decode_tokens", "rounds", "warmup", "seed")]
    latency.check_context(*plan[:2], config)
    with out_of_memory.advise(f"`latency_table.prompt_tokens: {plan[0]}` and a model of random weights: lower it"):
        dense = latency.build(config, getattr(torch, settings["dtype"]), device)
        cli.phase("load")
        table = stage.by_units(dense, *plan)
    measured = {"device": latency.device_name(device), "threads": threads}
    artifacts.write_parquet(output, table, "latency_table", {**settings, **measured})
    print(f"on {measured['device']}, {threads} threads\n{table.to_string(index=False)}")


if __name__ == "__main__":
    cli.run(latency_table)
