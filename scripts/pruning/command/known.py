"""A request of `prune`, and what is known of its model, its data and its methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pruning.command import efforts, own_data
from pruning.command.config_file import Edited
from pruning.command.lm_eval_tasks import Asked
from pruning.command.request import Request
from pruning.command.running import CONFIG, START
from pruning.config.methods import Method
from pruning.core import names
from pruning.methods.allocation import structures_of

VALIDATION = "own_validation"  # the task that choices are made by
TOLERANCES = {False: 0.1, True: 0.02}  # unless the user says how much; True: of right answers


class Own(NamedTuple):
    """The dense model's own right answers, on which pruned models are calibrated where there are enough."""

    asked: int  # training questions
    tokens: Mapping[str, int] | None = None
    """Of right answers and their questions, by part; empty: too few to calibrate on; None: not known yet."""
    rare: bool = False  # so few answers are right that they tell no models apart
    validation: int = 1  # validation questions that are asked
    longest: Mapping[str, int] = {"token": 1024, "byte": 4096}  # of a right answer with its question, as far as known


@dataclass(frozen=True)
class Known:
    """A request, and what is known once its model is fetched and its data are read."""

    request: Request  # with what its effort adds
    model: dict[str, Any]  # the configuration's section `models`, of this one
    smaller: Mapping[str, Any] = field(default_factory=dict)  # the same of models that it is compared with
    tasks: Sequence[Asked] = ()  # of lm-eval's
    mine: Edited | None = None  # the configuration, where the user has edited it
    context: int = 0  # tokens that the model reads at once
    vocabulary: int = 0  # words that it chooses from
    width: int = 0  # neurons of its widest layer, where the memory holds as many tokens as these take
    trained: Sequence[str] | None = None  # of a mixture of experts, what recovery trains
    tokens: Mapping[str, int] = field(default_factory=dict)  # of each part of the user's data
    bytes: Mapping[str, int] = field(default_factory=dict)  # likewise
    answers: own_data.Answers | None = None  # the questions whose answers are judged
    own: Own | None = None  # None: models are not calibrated on own answers
    methods: Mapping[str, Method | None] = field(default_factory=dict)
    """What is compared; None: of the default configuration."""
    notes: Sequence[str] = ()  # for the page

    @property
    def alias(self) -> str:
        """What results call the model."""
        return next(iter(self.model))

    @property
    def folder(self) -> Path:
        """Where the model lies once it is fetched."""
        return self.place(self.alias)

    def place(self, alias: str) -> Path:
        """Where a model of this name lies once it is fetched."""
        return (self.request.out / names.BASE.format(model=alias)).parent

    @property
    def effort(self) -> efforts.Effort:
        """With --tokens in place of its own, or with as many as the model's layers take."""
        return efforts.read(self.request.effort, self.request.tokens, self.width)

    @property
    def config(self) -> str:
        """Name of the configuration of what runs before the one that is shown is written."""
        return CONFIG if self.mine else START

    @property
    def calibrates_on_answers(self) -> bool:
        """Whether models are calibrated on own answers, as far as is known."""
        return self.own is not None and self.own.tokens != {}

    @property
    def rare(self) -> bool:
        """Whether right answers are so rare that they tell no models apart, and the user does not ask for more."""
        return self.own is not None and self.own.rare and not self.request.questions

    @property
    def tolerance(self) -> float:
        """The share by which perplexity may rise in the model to take. Of its own right answers a model is far surer
        than of texts: where theirs rose by 2%, about a tenth was lost (docs/explanation/statistics.md)."""
        if self.request.tolerance is not None:
            return self.request.tolerance
        if not self.mine:
            return TOLERANCES[self.calibrates_on_answers]
        judged = self.mine.config.table("validation").columns[0].task
        return TOLERANCES[self.mine.config.tasks[judged].prompt is not None]

    @property
    def kind(self) -> str:
        """What computes: gpu or cpu."""
        return "gpu" if self.model[self.alias]["gpus"] else "cpu"

    @property
    def compared(self) -> dict[str, Method]:
        """The methods by name: of the edited configuration, where there is one."""
        if self.mine:
            return {name: self.mine.config.method(name) for name in self.mine.config.table("table1").methods}
        return efforts.definitions(self.methods)

    @property
    def units(self) -> str:
        """What sparsity counts, in words."""
        if self.trained is None:
            return "FFN neurons"
        inside = {"expert_neurons" in structures_of(method.allocate) for method in self.compared.values()}
        within = {frozenset({True}): "neurons inside experts", frozenset({False}): "experts"}
        return within.get(frozenset(inside), "experts, or neurons inside them,")

    def noted(self, said: Sequence[str], **changes: Any) -> "Known":
        """Return it with these changes and notes, which are printed as well."""
        for note in said:
            print(f"Note: {note}", flush=True)
        return replace(self, notes=[*self.notes, *said], **changes)
