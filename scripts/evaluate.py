"""Evaluate one model on one lm-eval task: {task}.json (lm-eval's result) and {task}.samples.parquet (one row an item).

Answers already given by this very model to this very task are kept beside the outputs and are not asked for again.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli

# What lm-eval says of the run rather than of its result: equal runs make equal bytes.
OF_THE_RUN = ("date", "pretty_env_info", "git_hash", "upper_git_hash", "total_evaluation_time_seconds")


def evaluate(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the model")],
    manifest: Annotated[Path, typer.Option(help="its manifest.json")],
    definition: Annotated[Path, typer.Option(help="task YAML")],
    output: Annotated[Path, typer.Option(help="{task}.json")],
    samples: Annotated[Path, typer.Option(help="{task}.samples.parquet")],
    adapter: Annotated[Path | None, typer.Option(help="directory of a LoRA adapter to put on the model")] = None,
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_DATASETS_CACHE", str(Path("results/cache/datasets").absolute()))
    import lm_eval
    import torch

    from pruning.core import artifacts
    from pruning.evaluation import harness, tasks
    from pruning.evaluation.answers import ANSWERS, AnswerFile, RememberedLM
    from pruning.evaluation.backends import hf
    from pruning.evaluation.samples import outcomes
    from pruning.models import loading

    torch.set_num_threads(threads)
    cli.phase("start-up")
    task = tasks.definition(definition)
    data = {name: artifacts.file_hash(Path(path)) for name, path in task["dataset_kwargs"]["data_files"].items()}
    weights = [artifacts.file_hash(manifest), artifacts.directory_hashes(adapter) if adapter else None]
    asked = {key: settings[key] for key in ("num_fewshot", "shared_examples", "chat_template", "max_gen_toks")}
    identity = artifacts.key_of(ANSWERS, *weights, task, asked, data, settings["dtype"], lm_eval.__version__)
    answers = AnswerFile(output.parent / f".{output.stem}.{identity}.jsonl")
    network, tokenizer = loading.load(model, settings["dtype"], adapter=adapter)
    cli.phase("load")
    lm = RememberedLM(hf.HuggingFaceLM(network, tokenizer, settings["batch_size"]), answers)
    result = harness.evaluate(lm, task, settings["limit"], settings["first"], **asked)
    frame = outcomes(result, answers, settings["metrics"])
    artifacts.write_parquet(samples, frame, "samples", settings)
    for key in ("samples", *OF_THE_RUN):
        result.pop(key, None)
    artifacts.write_json(output, result, "evaluation", {**settings, "data": data})
    print(frame.groupby("metric")["value"].agg(["mean", "count"]).to_string())


if __name__ == "__main__":
    cli.run(evaluate)
