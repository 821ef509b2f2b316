"""Which results are kept."""

from typing import Literal

from pruning.config.base import Strict


class Storage(Strict):
    compact: Literal["keep", "temp", "memory"] = "keep"
    """`temp` deletes a compact model after its last evaluation. `memory` writes none to evaluate it: the dense one is
    loaded and cut. Compact models are then made for recovery, for ridge and `pad`, and where one asks for them."""
    second_moments: Literal["keep", "temp"] = "temp"
    """`temp` deletes the second moments after the last ridge compensation (1.4 GB a layer on a 7B)."""
