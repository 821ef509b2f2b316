"""What is compared: the experiment, and the tables that say otherwise."""

from itertools import product
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from pruning.config.base import Alias, NonEmpty, Of, Percent, Positive, Removed, Strict
from pruning.core.names import UNQUANTISED, Column
from pruning.models.gguf import BLOCK

Reference = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+(/[a-z0-9_-]+)?$")]


class Experiment(Strict):
    """What the tables and figures compare, unless one says otherwise."""

    name: Alias | None = None
    """Folder below results/ of this experiment's tables, figures and pages; null: directly there, over the last's."""
    models: Annotated[NonEmpty[Alias], Of("models")]
    """Models that are compared, entries of `models`."""
    calibrations: Annotated[NonEmpty[Alias], Of("calibrations")]
    """Tables have a block for each; analyses and figures take the first."""
    methods: Annotated[NonEmpty[Alias], Of("methods")]
    """Presets, or `{prefix}_<m>` (shuffle, ridge, sequential, corrective, attention, block), or
    `{objective}-{reduction}-{normalise}-{allocate}` (docs/methods.md)."""
    reference: Alias = "wanda"
    """Method that the others are compared with."""
    sparsity: Percent = 40
    """Per cent of FFN neurons removed, in analyses at one sparsity (Figures 1 and 2, Table 5, the ablation)."""
    layer: int | None = None
    """Layer that Table 4, Figures 1 and 2 and the readings look at; null: the last but one (the paper's 26 of 28)."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence level of all intervals, as a fraction: 0.95 gives 95% intervals."""
    resamples: Positive = 10_000
    """Bootstrap resamples of an interval."""
    seed: int = 0
    """Random seed of the bootstrap, of sampled tokens and of the order of timed models."""
    together: Annotated[list[NonEmpty[Alias]], Of("tasks")] = []
    """Lists of tasks that are evaluated in one job, so that a model is loaded once for them: those that any table or
    figure needs of it, whichever is made. Other tasks have one job each."""


class Table(Strict):
    title: str
    """Heading of the table."""
    tasks: NonEmpty[str]
    """Columns: a task, or `task@tuning`, the task after a LoRA recovery."""
    sparsities: NonEmpty[Removed] | None = None
    """Per cent of FFN neurons removed; null where `at` says it. 0 is for methods that prune the vocabulary."""
    at: dict[Alias, Removed] | None = None
    """Each method's own, as budgets chose; the methods are then compared at equal cost."""
    models: Annotated[NonEmpty[Alias] | None, Of("models")] = None
    """Models of this table, entries of `models`; null: the experiment's."""
    calibrations: Annotated[NonEmpty[Alias] | None, Of("calibrations")] = None
    """Calibrations of this table, entries of `calibrations`; null: the experiment's."""
    methods: Annotated[NonEmpty[Alias] | None, Of("methods")] = None
    """Methods of this table, entries of `methods`; null: the experiment's."""
    reference: Reference | None = None
    """A method; or `dense`, the model before pruning; or `untuned`, the same model before recovery; or `uncompensated`,
    <m> for `ridge_<m>` and the like; or a calibration, the same method on that data; or `calibration/method`, that one
    on that data."""
    layout: Literal["wide", "long"] = "wide"
    """`wide`: one column group per sparsity; `long`: one row per sparsity."""
    paper: Literal["table1", "table2", "table3", "table6", "table7"] | None = None
    """Table of the paper whose numbers stand beside the measured ones."""
    quantised: list[Literal[tuple(BLOCK)]] = []
    """GGUF types in which the dense model and every pruned one are alternatives to each other: compared at equal bytes
    and equal speed in results/{table}-bytes and {table}-speed, as what the files hold."""
    siblings: Annotated[list[Alias], Of("models")] = []
    """Smaller dense models that are alternatives as well, unquantised and in these types."""
    costs: bool = False
    """Also print what making each method's models took here, of time and memory."""

    @property
    def pruned(self) -> list[tuple[str, int]]:
        """Methods and their sparsities, method by method."""
        own = [(method, self.at[method]) for method in self.methods] if self.at else []
        return own or list(product(self.methods, self.sparsities or []))

    @property
    def types(self) -> list[str | None]:
        """None and GGUF types: of each model that is compared with alternatives; none where none is."""
        both = [None, *(kind for kind in dict.fromkeys(self.quantised) if kind != UNQUANTISED)]
        return both if self.quantised or self.siblings else []

    @property
    def columns(self) -> list[Column]:
        return [Column.parse(text) for text in self.tasks]
