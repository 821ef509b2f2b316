"""Copy a trained reasoner to resources/, where the embedded default reads it.

Refuses one that cannot reason: a model without accuracy to lose cannot show what pruning does to it.
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli

LEAST_ACCURACY = 0.75  # greedy exact match on problems with unseen numbers


def promote_reasoner(
    trained: Annotated[Path, typer.Argument(help="directory that train_reasoner.py wrote")],
    resources: Annotated[Path, typer.Argument(help="directory of the embedded model")],
) -> None:
    from pruning.core import artifacts

    measured = artifacts.read_json(trained / "recipe.json", "reasoner")["accuracy"]["unseen_numbers"]
    if measured["exact_match"] < LEAST_ACCURACY:
        raise cli.InputError(
            f"{trained}: solves {measured['exact_match']:.1%} of {measured['n']} problems with unseen numbers, "
            f"{LEAST_ACCURACY:.0%} are needed: train longer (reasoner.steps)"
        )
    with artifacts.atomic_directory(resources) as directory:
        shutil.copytree(trained, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    print(f"{resources}: {measured['exact_match']:.1%} of {measured['n']} problems with unseen numbers")


if __name__ == "__main__":
    cli.run(promote_reasoner)
