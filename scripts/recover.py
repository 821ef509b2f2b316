"""Recover a pruned model by LoRA: a PEFT adapter and its training log; after a kill, on from the last checkpoint."""

import math
from pathlib import Path

from pruning.core import cli


def recover(
    settings: cli.Settings,
    model: Path,
    manifest: Path,
    data: Path,
    output: Path,
    teacher: Path | None = None,
    threads: int = 1,
) -> None:
    """model: directory of the compact model. manifest: its manifest.json. data: parquet of the tuning split. output:
    directory for the adapter. teacher: directory of the dense model, to be distilled from."""
    import pandas as pd
    import torch
    from tqdm import tqdm

    from pruning.core import artifacts, out_of_memory
    from pruning.evaluation import recovery

    tuned, taught, sequences, pad = recovery.opened(model, data, settings, teacher)
    optimizer = torch.optim.AdamW([*recovery.trained(tuned).values()], lr=settings["learning_rate"], weight_decay=0.0)

    origins = [manifest, data, *([teacher / "manifest.json"] if teacher else [])]
    checkpoint = artifacts.unfinished(output, settings, *origins)
    log = recovery.load_state(checkpoint, tuned, optimizer)
    device = tuned.get_base_model().get_input_embeddings().weight.device
    with out_of_memory.advise("`tunings: micro_batch`: lower it, or set `gradient_checkpointing: true`"):
        for step in tqdm(range(len(log), settings["steps"]), "LoRA steps", mininterval=5):
            chosen = recovery.drawn(len(sequences), step, settings["batch_size"], settings["seed"])
            ids, labels = recovery.batch([sequences[number] for number in chosen], pad)
            told = taught and taught.of(chosen)
            value = recovery.backward(tuned, ids.to(device), labels.to(device), settings["micro_batch"], told)
            if not math.isfinite(value):
                raise cli.InputError(
                    f"tunings: learning_rate: {settings['learning_rate']}: the loss is {value} at step {step + 1}: "
                    "lower it"
                )
            optimizer.step()
            optimizer.zero_grad()
            log.append({"step": step + 1, "loss": value})
            if (step + 1) % settings["checkpoint_every"] == 0:
                recovery.save_state(checkpoint, log, tuned, optimizer)
    with artifacts.atomic_directory(output) as directory:
        recovery.save(directory, tuned)
        names = settings.get("names", {})  # so that logs of several recoveries can be read as one table
        frame = pd.DataFrame(log).assign(**names)[[*names, "step", "loss"]]
        artifacts.write_csv(directory / "training_log.csv", frame, settings)
        content = {"last_loss": log[-1]["loss"], "files": artifacts.directory_hashes(directory)}
        artifacts.write_json(directory / "recovery.json", content, "recovery", settings)
    checkpoint.unlink(missing_ok=True)
    print(f"loss {log[0]['loss']:.4f} at the first step, {log[-1]['loss']:.4f} at the last")


if __name__ == "__main__":
    cli.run(recover)
