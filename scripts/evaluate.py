"""Ask one model its tasks: {task}.json (the whole result) and {task}.samples.parquet (one row per item) for each.

The model is loaded once for all of them, and once more for those that another backend answers. Where there is a mask,
it is cut out of the dense model in memory.
"""

import importlib
import os
from pathlib import Path

from pruning.core import cli


def evaluate(
    settings: cli.Settings,
    variant: cli.Variant,
    source: list[str],
    output: Path,
    states: cli.Evidence = None,
    threads: int = 1,
) -> None:
    """source: TASK=PATH, its YAML, or parquet of its text. output: directory for {task}.json and
    {task}.samples.parquet. states: TASK=PATH, manifests that scripts/hidden_states.py made for tasks that compare with
    the dense model.

    Settings: `tasks`: name -> a task's settings, `dtype` and, where it is not `hf`, `backend` among them."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Copies of the code that is written beside some models.
    os.environ.setdefault("HF_MODULES_CACHE", str(Path("results/cache/modules").absolute()))

    from pruning.core import artifacts
    from pruning.evaluation.kinds import Cache
    from pruning.methods.variants import Parts

    sources, dense = cli.paths(source), cli.paths(states)
    parts = Parts.of(variant)
    what, pruned = parts.identity(), parts.pruned()

    kinds = {
        name: importlib.import_module(f"pruning.evaluation.kinds.{task['kind']}")
        for name, task in settings["tasks"].items()
    }
    for name, kind in kinds.items():
        kind.check_memory(parts.model, settings["tasks"][name])

    def ask(backend: str, tasks: dict[str, dict]) -> None:
        own = importlib.import_module(f"pruning.evaluation.backends.{backend}")
        with own.opened(parts, next(iter(tasks.values()))) as (network, tokenizer):
            for name, task in tasks.items():
                try:
                    cache = Cache(output, name, what)
                    outcome = kinds[name].ask(network, tokenizer, task, sources[name], cache, dense.get(name))
                except cli.InputError as error:
                    raise cli.InputError(f"tasks.{name}: {error}" if len(sources) > 1 else str(error)) from None
                artifacts.write_parquet(output / f"{name}.samples.parquet", outcome.samples, "samples", task)
                result = {**outcome.result, "pruned": pruned}
                artifacts.write_json(output / f"{name}.json", result, "evaluation", {**task, **outcome.origin})
                print(f"{name}\n{outcome.words}", flush=True)

    of = {name: task.get("backend", "hf") for name, task in settings["tasks"].items()}
    for backend in sorted(set(of.values()), key=lambda backend: backend != "hf"):  # the others take all of the memory
        ask(backend, {name: task for name, task in settings["tasks"].items() if of[name] == backend})


if __name__ == "__main__":
    cli.run(evaluate)
