"""Train the tiny reasoner from scratch on generated word problems (docs/tiny-reasoner.md), or a mixture made of it.

Writes a Hugging Face model directory with its model card, recipe, training log and measured accuracy. `make
promote-reasoner` copies a finished one to resources/, which the embedded default prunes; a fresh clone never trains.
"""

from pathlib import Path

from pruning.core import cli


def train_reasoner(settings: cli.Settings, output: Path, dense: Path | None = None, threads: int = 1) -> None:
    """output: model directory to write. dense: directory of the dense model, to make a mixture of it."""
    from pruning.core import artifacts
    from pruning.data import reasoner

    with artifacts.atomic_directory(output) as directory:
        content = reasoner.train(settings, directory, dense)
        artifacts.write_json(directory / "recipe.json", content, "reasoner", settings)


if __name__ == "__main__":
    cli.run(train_reasoner)
