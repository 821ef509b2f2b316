"""Which tokens stay of a model's vocabulary, by calibration data."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pruning.calibration import prepare
from pruning.models.vocabulary import Tokenizer


def chosen(model: Path, data: Path, settings: Mapping[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """Return the tokens that stay, and what a manifest says of them: how many are `kept`, `of` how many rows of the
    embedding, and for which reasons (Tokenizer.keep); `covered`: which share of the data's tokens they are.

    model: directory. data: parquet of the calibration's split, of which all is read. settings: `vocabulary`, and
    templates of the text, `prompt` and `completion`. Raises InputError as Tokenizer and prepare.texts do."""
    own = Tokenizer(model)
    counts = Counter(own.encoded(prepare.texts(data, settings)))
    kept = own.keep(settings["vocabulary"], counts)
    covered = sum(counts[number] for number in kept) / max(counts.total(), 1)
    return list(kept), {"kept": len(kept), "of": own.size, **Counter(kept.values()), "covered": covered}
