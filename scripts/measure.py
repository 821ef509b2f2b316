"""Measure a dense model on calibration text, or fit what is left of it: what is done, a module of pruning/ says.

Its `measure` writes the outputs: of calibration/, statistics of a shard (`gradients`), or of attention;
`second_moments`; `output_gradients`; `parameter_gradients`; of methods/ what cuts cost (`sensitivity`), an order of
removal (`rounds`) and the refitted weights of one pruned variant (`refit`); and what figures show of single tokens
(paper/observe).
"""

import importlib
from pathlib import Path

from pruning.core import cli

OUTSIDE = ("pruning.methods.refit", "pruning.methods.rounds", "pruning.methods.sensitivity", "pruning.paper.observe")
"""Modules that are not of calibration/."""


def measure(
    what: str,
    output: list[Path],
    settings: cli.Settings,
    model: Path,
    data: Path,
    evidence: cli.Evidence = None,
    memory_mb: int | None = None,
    threads: int = 1,
) -> None:
    """what: the module, as calibration/gradients. output: in the order that its `measure` says. model: directory of the
    dense model. data: parquet of the calibration split. evidence: what else it is made of. memory_mb: memory the job
    may take on a CPU; else no bound.

    Settings: a calibration's, and those that the module's `measure` says."""
    from pruning.calibration import prepare
    from pruning.core import out_of_memory

    name = f"pruning.{what.replace('/', '.')}"
    module = importlib.import_module(name if name in OUTSIDE else f"pruning.calibration.{what.rpartition('/')[2]}")
    memory = None if memory_mb is None else memory_mb * 10**6
    loaded = prepare.loaded(model, data, settings, threads, module.STAGE)
    job = prepare.Measurement(*loaded, model, data, settings, output, cli.paths(evidence), memory)
    del loaded  # so that `measure` may let go of the network
    with out_of_memory.advise(prepare.advice(settings)):
        module.measure(job)


if __name__ == "__main__":
    cli.run(measure)
