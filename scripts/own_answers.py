"""A model's own answers, the right ones or all, as text to calibrate or tune on: item, prompt, completion."""

from pathlib import Path

from pruning.core import cli


def own_answers(settings: cli.Settings, samples: Path, output: Path) -> None:
    """samples: the model's outcomes on the task.

    Settings: the `task`, the `metric` that says what is right, and `which`, if not the right ones."""
    from pruning.core import artifacts
    from pruning.data import text

    answers = text.own_answers(artifacts.read_parquet(samples, "samples"), **settings)
    artifacts.write_parquet(output, answers, "dataset", settings)


if __name__ == "__main__":
    cli.run(own_answers)
