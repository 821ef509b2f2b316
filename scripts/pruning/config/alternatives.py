"""Tables with `quantised` or `siblings`: what cannot be a row beside the models that are pruned."""

import json
from pathlib import Path
from typing import Any

from pruning.config.experiment import Table
from pruning.config.methods import NEURONS_INSIDE, Method
from pruning.core import names
from pruning.core.errors import InputError, within
from pruning.models import gguf
from pruning.models.families import FAMILIES, read_config
from pruning.models.gguf import BLOCK
from pruning.models.multimodal import is_multimodal, text_shape

Config = Any  # schema.Config, which calls `check`
TABLES = ("bytes", "speed")  # what such a table makes as well: results/{table}-bytes and -speed
LEAST = 32  # values that every quantised type, or the one that llama.cpp takes in its place, stores together


def check(config: Config, place: str, table: Table) -> None:
    """Raises ValueError, naming the key, for names that are taken, siblings that are none, and methods whose widths are
    no whole blocks of a type."""
    if not table.types:
        return
    for name in [f"{place.removeprefix('tables.')}-{of}" for of in TABLES]:
        if name in config.tables or name in config.models:
            raise ValueError(f"{place}: makes results/{name} as well, and that name is taken; choose another")
    if twice := [model for model in table.siblings if model in table.models]:
        raise ValueError(f"{place}.siblings: {twice[0]} is a model of this table already: leave it out")
    for model in [*table.models, *table.siblings]:
        if config.models[model].backend != "hf":
            raise ValueError(f"models.{model}.backend: {place} evaluates the values of GGUF files: set `backend: hf`")
    blocks = {kind: BLOCK[kind] for kind in table.quantised if BLOCK[kind] > 1}
    mixtures = all(_is_mixture(config.folder(model)) for model in table.models)
    narrower = dict.fromkeys(method for method, sparsity in table.pruned if sparsity)  # 0%: the vocabulary alone
    for name in narrower if blocks else []:
        if mixtures and config.method(name).allocate != NEURONS_INSIDE:
            continue  # fewer experts, of the width that they had
        if (kept := config.method(name).round_to) % LEAST:
            kind, size = next(iter(blocks.items()))
            fits = size if size == LEAST else f"{size}` or `{LEAST}"
            raise ValueError(
                f"{place}.quantised: {kind} stores {size} values of a row together, and {name} keeps multiples of "
                f"{kept} neurons, whose rows are no whole blocks: set `round_to: {fits}` of the method"
            )


def _is_mixture(folder: Path) -> bool:
    """Whether a model that is there is a mixture of experts."""
    if not (folder / "config.json").is_file():
        return False
    family = FAMILIES.get(text_shape(read_config(folder), str(folder))["model_type"])
    return bool(family and family.mixture)


def check_models(config: Config) -> None:
    """Raises InputError for types that cannot be made here, for models that are there and that llama.cpp has not, or
    whose rows are no whole blocks of a type, and for perplexities per token of siblings with another tokenizer."""
    for name, table in config.tables_used.items():
        place = f"tables.{name}"
        for kind in table.quantised:
            gguf.check(kind, f"{place}.quantised: ")
        there = {
            model: folder
            for model in [*table.models, *table.siblings]
            if (folder := _fetched(config, model)) and not is_multimodal(read_config(folder))
        }
        for model, folder in there.items() if table.types else ():
            hidden = read_config(folder)["hidden_size"]
            if odd := [kind for kind in table.quantised if gguf.stored_instead(kind, hidden) == "F16"]:
                raise InputError(
                    f"{place}.quantised: {odd[0]}: rows of {model} have {hidden} values, which are no whole blocks of "
                    f"{LEAST}, and are stored in F16: leave the type out"
                )
            for method in table.methods if model in table.models else []:
                check_file(f"{place}: {method}: ", folder, config.method(method))
            check_file(f"{place}: {model}: ", folder)
        perplexities = [each.task for each in table.columns if config.tasks[each.task].kind == "perplexity"]
        texts = [task for task in perplexities if config.tasks[task].per == "token"]
        for model in table.models if texts else []:
            for sibling in [own for own in table.siblings if model in there and own in there]:
                if vocabulary(there[model]) != vocabulary(there[sibling]):
                    raise InputError(
                        f"{place}.siblings: {sibling} has another tokenizer than {model}, and perplexities per token "
                        "do not compare: set `per: byte` there, or leave out the sibling or "
                        f"{', '.join(dict.fromkeys(texts))}"
                    )


def _fetched(config: Config, model: str) -> Path | None:
    """Where a model that is there lies, or its text part once the workflow has it."""
    places = (Path(names.BASE.format(model=model)).parent, config.folder(model))
    return next((folder for folder in places if (folder / "config.json").is_file()), None)


def check_file(said: str, folder: Path, method: Method | None = None) -> None:
    """Raise InputError, which begins with these words, where a model, or what a method makes of it, becomes no file."""
    from pruning.models.gguf import model  # torch is slow

    with within(said):
        model.check(folder, *((method.uneven, method.compensate == "bias", bool(method.others)) if method else ()))


def vocabulary(folder: Path) -> tuple[Any, ...]:
    """What of a tokenizer decides how a text is cut."""
    from pruning.models import tokenizers  # transformers is slow

    # As it is loaded: another version of a library writes the same in other words.
    content = json.loads(tokenizers.load(folder).backend_tokenizer.to_str())
    return *(content.get(key) for key in ("model", "normalizer", "pre_tokenizer")), content.get("added_tokens")
