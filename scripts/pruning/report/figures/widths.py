"""How many neurons each method leaves to each layer at one sparsity; of a mixture experts, or neurons inside them.

Table: `widths` (kept_share: the fraction of the layer's that stay). Settings: `sparsity`, a fraction. Uniform
methods show as bands of one colour.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pruning.core import names
from pruning.report.figures import style


def draw(tables: Mapping[str, pd.DataFrame], settings: Mapping[str, Any]) -> Figure:
    sparsity = names.percent(settings["sparsity"])
    widths = tables["widths"][names.percent(tables["widths"]["sparsity"]) == sparsity]
    made, panels = style.figure(widths, settings, 0.2 * len(settings["methods"]) + 1.0)
    for block, part in panels:
        methods = style.methods_of(block.rows(widths), settings)
        grid = block.rows(widths).pivot(index="method", columns="layer", values="kept_share").loc[list(methods)]
        axis = part.subplots()
        style.heatmap(axis, 100 * grid, "kept (%)", vmin=0, vmax=100)
        for y in range(1, len(grid)):
            axis.axhline(y, color="white", linewidth=1.5)
        axis.set_yticks([y + 0.5 for y in range(len(grid))], map(style.label, grid.index))
        axis.set_xticks(*style.spaced(list(grid.columns), 32))
        axis.tick_params(axis="y", length=0)
        axis.set(xlabel="layer", title=f"What each layer keeps at {sparsity:g}% sparsity")
    return made
