"""The look of all figures, and how they take their rows from tables.

Made for print at the width given, in colour or grey: every method keeps its colour, marker and line style in all
figures, and no two methods share a marker of the same fill. Colours are those of Okabe and Ito (2008), which readers
with any colour vision tell apart; a variant of a method has the method's hue and a hollow marker.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pruning.core import names

WIDTH = 7.2  # inches, of a page's two columns
INK, GREY, FAINT, LIGHT = "#222222", "#767676", "#A6A6A6", "#DDDDDD"
SEQUENTIAL = "cividis"  # its lightness is monotone, so it reads in grey
RC = {
    **sns.axes_style("ticks"),
    **dict.fromkeys(("font.size", "axes.labelsize", "legend.fontsize", "xtick.labelsize", "ytick.labelsize"), 8),
    **dict.fromkeys(("axes.titlesize", "figure.titlesize"), 9),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.6),
    **dict.fromkeys(("grid.linewidth", "hatch.linewidth"), 0.4),
    "axes.edgecolor": INK,
    "axes.formatter.use_mathtext": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: equal figures on all machines
    "grid.color": LIGHT,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "lines.markeredgewidth": 0.9,
    "savefig.dpi": 200,
    "svg.hashsalt": "pruning",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Figures drawn and saved inside look alike, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.use("Agg")
        matplotlib.rcParams.update(RC)
        yield


@dataclass(frozen=True)
class Style:
    """How one method looks, everywhere."""

    label: str
    color: str
    marker: Any
    linestyle: Any = "-"
    hollow: bool = False

    @property
    def points(self) -> dict[str, Any]:
        """For Axes.plot and errorbar: markers alone."""
        return {
            "color": self.color,
            "marker": self.marker,
            "markerfacecolor": "white" if self.hollow else self.color,
            "markersize": 7 if self.marker == "*" else 4.5,
            "linestyle": "none",
        }

    @property
    def line(self) -> dict[str, Any]:
        return {**self.points, "linestyle": self.linestyle}

    @property
    def handle(self) -> Line2D:
        """For legends."""
        return Line2D([], [], label=self.label, **self.line)


METHODS = {
    "dense": Style("dense", "#000000", "o"),
    "wanda": Style("Wanda-Struct", "#0072B2", "s", "--"),
    "wanda_global": Style("Wanda-Struct (global)", "#0072B2", "D", (0, (5, 1, 1, 1)), hollow=True),
    "flap": Style("FLAP", "#56B4E9", "^", "-."),
    "taylor_fo": Style("Taylor-FO", "#009E73", "v", (0, (6, 1.5))),
    "taylor_fo_global": Style("Taylor-FO (global)", "#009E73", "<", ":", hollow=True),
    "cfsp": Style("CFSP", "#CC79A7", "P", (0, (3, 1, 1, 1, 1, 1))),
    "cfsp_as_code": Style("CFSP (as code)", "#CC79A7", "X", (0, (1, 1)), hollow=True),
    "agf": Style("AGF", "#E69F00", "h", (0, (4, 1))),
    "agf_global": Style("AGF (global)", "#E69F00", "H", (0, (4, 1, 1, 1)), hollow=True),
    "rku": Style("RKU", "#D55E00", "*"),
    "rku_global": Style("RKU (global)", "#D55E00", "p", (0, (2, 1)), hollow=True),
    "minitron": Style("Minitron", "#7A4B1E", ">", (0, (8, 1.5, 1, 1.5))),
    "magnitude": Style("magnitude", "#999933", "d", (0, (1, 1.5))),
    "random": Style("random", "#8C8C8C", "o", (0, (1, 2)), hollow=True),
}
# For methods that the list does not name, and for anything else that needs telling apart (pairs, shapes).
CYCLE = [
    *(("#332288", (3, 1, 180), "-"), ("#44AA99", (4, 1, 0), "--"), ("#882255", (3, 1, 0), "-.")),
    *(("#B5A642", (6, 1, 0), ":"), ("#117733", (8, 1, 0), (0, (5, 1, 1, 1))), ("#5D8AA8", "H", (0, (6, 1.5)))),
]


def styles(methods: Iterable[str], background: Iterable[str] = ()) -> dict[str, Style]:
    """The style of each method; those not in METHODS get the next of CYCLE, in their order; those of the background
    are grey."""
    methods = list(methods)
    unknown = [name for name in methods if name not in METHODS]
    extra = {}
    for i, name in enumerate(unknown):
        color, marker, line = CYCLE[i % len(CYCLE)]
        extra[name] = Style(name, color, marker, line, hollow=i // len(CYCLE) % 2 == 1)
    found = {name: METHODS.get(name) or extra[name] for name in methods}
    return found | {name: replace(found[name], color=FAINT) for name in background if name in found}


def looks_of(settings: Mapping[str, Any]) -> dict[str, Style]:
    """The style of the dense model and of each method of the settings."""
    return styles(["dense", *settings["methods"]], settings.get("background", ()))


def label(method: str) -> str:
    return METHODS[method].label if method in METHODS else method


# Rows of tables -----------------------------------------------------------------------------------------------------


def methods_of(frame: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Rows of each method of the settings that the table has, the dense model's first."""
    found = dict(list(frame.groupby("method")))
    return {m: found[m] for m in dict.fromkeys(["dense", *settings["methods"]]) if m in found}


def with_dense(accuracy: pd.DataFrame) -> pd.DataFrame:
    """Accuracies with sparsities in per cent, and sparsity 0, under whichever method, as one method `dense`."""
    sparsity = names.percent(accuracy["sparsity"])
    frame = accuracy.assign(sparsity=sparsity, method=accuracy["method"].where(sparsity > 0, "dense"))
    return frame.drop_duplicates(["model", "calib", "method", "sparsity", "task", "metric"])


@dataclass(frozen=True)
class Panels:
    """One (model, calibration): one row of panels."""

    model: str
    calib: str

    @property
    def title(self) -> str:
        return f"{self.model}, calibrated on {self.calib}"

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The table's rows of it. Those with no calibration, the dense model's, are rows of any calibration."""
        return frame[(frame["model"] == self.model) & ((frame["calib"] == self.calib) | frame["calib"].isna())]


def blocks(frame: pd.DataFrame, settings: Mapping[str, Any]) -> list[Panels]:
    """Models of the settings, each with its calibrations in the table."""
    calibs = {model: frame.loc[frame["model"] == model, "calib"] for model in settings["models"]}
    return [Panels(model, calib) for model, own in calibs.items() for calib in own.dropna().unique()]


# Panels -------------------------------------------------------------------------------------------------------------


def figure(
    frame: pd.DataFrame, settings: Mapping[str, Any], height: float
) -> tuple[Figure, list[tuple[Panels, SubFigure]]]:
    """A figure with one subfigure for each of `blocks`, as `stacked`."""
    found = blocks(frame, settings)
    made, parts = stacked([block.title for block in found], height)
    return made, list(zip(found, parts, strict=True))


def stacked(titles: Sequence[str], height: float) -> tuple[Figure, Sequence[SubFigure]]:
    """A figure with one subfigure a title, one above the other, each of that height in inches."""
    made = Figure(figsize=(WIDTH, height * len(titles)), layout="constrained")
    made.get_layout_engine().set(w_pad=0.06, h_pad=0.05)
    parts = np.atleast_1d(made.subfigures(len(titles), 1))
    for part, title in zip(parts, titles, strict=True):
        headline(part, title)
    return made, parts


def headline(part: SubFigure, text: str) -> None:
    part.suptitle(text, x=0.01, ha="left", weight="bold")


def quality(settings: Mapping[str, Any]) -> str:
    """What an axis of a task's results shows, in lines that a panel has room for."""
    what = {"accuracy": "accuracy (%)", "bits": "bits per byte"}.get(settings["kind"], "perplexity")
    lines = textwrap.wrap(settings["title"], 36)
    return "\n".join(lines if what in settings["title"] else [*lines, what])


def row_height(entries: int) -> float:
    """Inches that a panel with one line of text an entry needs, with its titles and axis."""
    return max(2.4, 0.17 * entries + 0.95)


def legend(made: Figure, handles: Sequence[Any]) -> Legend:
    """One legend below all panels, in as many columns as the longest label allows; the figure grows by its height."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    fitting = int(made.get_figwidth() / (0.62 + 0.068 * longest))
    rows = -(-len(handles) // max(1, fitting))
    made.set_figheight(made.get_figheight() + 0.17 * rows + 0.1)
    return made.legend(handles=list(handles), loc="outside lower center", ncols=-(-len(handles) // rows))


def method_handles(methods: Iterable[str], settings: Mapping[str, Any]) -> list[Line2D]:
    looks = looks_of(settings)
    return [looks[method].handle for method in methods]


def categories(axis: Axes, texts: Sequence[str]) -> np.ndarray:
    """Texts down the y axis, the first on top. Returns their positions."""
    positions = np.arange(len(texts))
    axis.set_yticks(positions, texts)
    axis.set_ylim(len(texts) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    return positions


def interval(axis: Axes, x: Any, y: Any, low: Any, high: Any, vertical: bool = True, **look: Any) -> Any:
    """Points with the interval from low to high as a thin bar; an interval that is not known is left out."""
    value = np.asarray(y if vertical else x, dtype=float)
    span = np.nan_to_num(np.clip([value - np.asarray(low, float), np.asarray(high, float) - value], 0, None))
    return axis.errorbar(
        x, y, **{"yerr" if vertical else "xerr": span}, elinewidth=0.8, capsize=1.5, capthick=0.8, **look
    )


def log(axis: Axes, which: str) -> None:
    """Logarithmic x or y axes (`which`: x, y or xy) of an axis that has its data already, with plain numbers:
    exponents would be too small to read."""
    for of_axis, name in ((axis.xaxis, "x"), (axis.yaxis, "y")):
        if name in which:
            axis.set(**{f"{name}scale": "log"})
            low, high = of_axis.get_view_interval()
            decades = LogLocator(subs=(1,) if high > 50 * low else (1, 2, 5))
            of_axis.set_major_locator(decades if high > 10 * low else MaxNLocator(5))  # else a tick or two
            of_axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            of_axis.set_minor_formatter(NullFormatter())


def heatmap(axis: Axes, grid: pd.DataFrame, bar: str, **options: Any) -> None:
    """A grid in colours that read in grey; the bar's text says what they mean."""
    options = {"cmap": SEQUENTIAL, "linewidths": 0, "rasterized": True, **options}
    sns.heatmap(grid, ax=axis, xticklabels=False, yticklabels=False, cbar_kws={"label": bar, "aspect": 25}, **options)
    axis.grid(False)
    axis.set(xlabel="", ylabel="")


def spaced(values: Sequence[Any], most: int) -> tuple[np.ndarray, list[str]]:
    """Ticks at the cells' middles for at most about `most` of a heat map's rows or columns."""
    step = -(-len(values) // most)
    places = np.arange(0, len(values), step)
    return places + 0.5, [f"{values[i]:g}" for i in places]
