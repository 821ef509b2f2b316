"""What reproduces the paper and no other part needs: its analyses, each with `write(files, settings, outputs)`, tables
and figures."""

from pruning.core.errors import InputError


def chosen(layer: int | None, layers: int) -> int:
    """Return the one layer that tables and figures show more of; None is the last but one, as the paper's 26 of 28.

    Raises InputError where the model has no such."""
    number = layers - 2 if layer is None else layer
    if not 0 <= number < layers:
        raise InputError(f"experiment.layer: {number} is out of range, the model has layers 0 to {layers - 1}")
    return number
