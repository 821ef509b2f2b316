"""Datasets: generated here, or published and read from the hub or from disk."""

from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from pruning.config.base import Alias, NonEmpty, Positive, Revision, Strict, choices

Entry = TypeVar("Entry")
Splits = Annotated[dict[Alias, Entry], Field(min_length=1)]


class GeneratedDataset(Strict):
    kind: Literal["generated"]
    """`generated`: problems made here by a program."""
    content: Literal["word_problems", "arithmetic"] = "word_problems"
    """Worked word problems, or single steps of arithmetic after three worked ones."""
    templates: list[int] = []
    """gsm_symbolic template numbers of reasoning-gym."""
    difficulty: Annotated[float, Field(gt=0)] = 1.0
    """Above 1 the templates draw from wider ranges of numbers."""
    with_options: bool = False
    """Add five worked answers to choose from, `solutions`, and the right one's number, `gold`."""
    seed: int = 0
    """Random seed of the problems; another seed makes other problems."""
    splits: Splits[Positive]
    """Split (train, validation, test) and how many problems; no two splits share a question."""
    fields: NonEmpty[str]
    """Columns of the parquet."""
    prompt: str = "{question}"
    """Calibration text before the answer; fields in braces."""
    completion: str = ""
    """Calibration text of the answer."""


class LocalFiles(Strict):
    path: str
    """JSON Lines file below `data_folder`; `{split}` stands for the source's name of the split."""
    splits: Splits[Annotated[str, StringConstraints(pattern=r"^[^\[\]]+(\[\d*:\d*\])?$")]]
    """Split and the name it has in the source (slices such as `train[:6000]` work)."""
    adapter: Literal[choices("data/adapters")] | None = None
    """File of scripts/pruning/data/adapters that turns the source's records into `fields`."""

    def place(self, split: str) -> tuple[str, list[int | None] | None]:
        """Return the path of a split's file, and the first and the end of its records; None for all of them."""
        name, bracket, ends = self.splits[split].partition("[")
        slices = [int(end) if end else None for end in ends[:-1].split(":")] if bracket else None
        return self.path.replace("{split}", name), slices


class HubFiles(Strict):
    repo: str
    """Repository of the dataset on the Hugging Face Hub, as `owner/name`."""
    name: str | None = None
    """The dataset's configuration on the hub; null: its only one."""
    data_files: dict[str, str] | None = None
    """Split on the hub and the file to read it from, where the whole repository would be too much to download."""
    revision: Revision
    """Commit of the dataset's repository (40 hex digits); `main` is accepted but does not reproduce."""
    splits: Splits[str]
    """Split and its expression on the hub (slices such as `validation[:1000]` work)."""
    adapter: Literal[choices("data/adapters")] | None = None
    """File of scripts/pruning/data/adapters that turns the hub's records into `fields`; null: they are taken as they
    are."""


class PublishedDataset(Strict):
    kind: Literal["published"]
    """`published`: read from the Hugging Face Hub, or from disk."""
    fields: NonEmpty[str] | None
    """Columns of the parquet, those of the hub's copy of the dataset, which lm-eval's tasks read; null: all."""
    prompt: str = "{text}"
    """Calibration text before the answer; fields in braces."""
    completion: str = ""
    """Calibration text of the answer."""
    hub: HubFiles | None = None
    """Where it is fetched from, unless `data_folder` is set and `local` given."""
    local: LocalFiles | None = None
    """Where it is read from when `data_folder` is set, or when there is no `hub`."""

    def check(self) -> None:
        if not self.hub and not self.local:
            raise ValueError("needs `hub` or `local`")


Dataset = Annotated[GeneratedDataset | PublishedDataset, Field(discriminator="kind")]
