"""What the dense model's head gets on a text: once for all models that are compared with it there."""

from pathlib import Path

from pruning.core import cli


def hidden_states(settings: cli.Settings, model: Path, source: Path, output: Path, threads: int = 1) -> None:
    """model: directory of the dense model. source: parquet of the text. output: the manifest; the states are beside it,
    in a folder of its name.

    Settings: `dtype`, and those of a perplexity that say what its windows are."""
    import torch

    from pruning.core import artifacts, layer_files
    from pruning.evaluation import dense
    from pruning.evaluation.kinds import perplexity

    torch.set_num_threads(threads)
    states = perplexity.dense_states(model, settings, source)
    content = {"model": artifacts.file_hash(model / "manifest.json")}
    layer_files.write(output, dense.KIND, settings, states, content)


if __name__ == "__main__":
    cli.run(hidden_states)
