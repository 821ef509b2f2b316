"""How fast models are, timed in turn in one process (analysis/timing.py): a CSV, or the parquet of a latency table."""

import json
from pathlib import Path

from pruning.core import cli


def timing(
    settings: cli.Settings,
    output: Path,
    variant: list[str] | None = None,
    file: list[str] | None = None,
    threads: int = 1,
) -> None:
    """output: CSV; parquet of a latency table. variant: JSON, `variant`, and paths and scheme of its parts, one for
    each. file: NAME=PATH, GGUF file of a model.

    Settings: `clock`, the section of the configuration, and what that and its function in analysis/timing.py say."""
    import torch

    from pruning.analysis import file_speed
    from pruning.analysis.timing import CLOCKS, device_name
    from pruning.core import artifacts, out_of_memory
    from pruning.methods.variants import Parts

    parts = {own.pop("variant"): Parts.of(own) for own in map(json.loads, variant or ())}
    clock, prompt = settings["clock"], settings["prompt_tokens"]
    with out_of_memory.advise(f"`{clock}.prompt_tokens: {prompt}`: lower it, or take a smaller dtype"):
        if clock == "llama_cpp":
            table = file_speed.of_files(cli.paths(file), {**settings, "threads": threads})
        else:
            table = CLOCKS[clock](parts, settings)
    if output.suffix == ".parquet":
        measured = {"device": device_name(torch.device(settings["device"])), "threads": threads}
        artifacts.write_parquet(output, table, clock, {**settings, **measured})
    else:
        artifacts.write_csv(output, table, settings)
    print(table.to_string(index=False))


if __name__ == "__main__":
    cli.run(timing)
