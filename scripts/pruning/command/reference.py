"""What `make config` makes of the code: config/schema.json and docs/reference/; a test compares them with it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

MADE = "<!-- Made by `make config`. -->\n"


def files() -> dict[str, str]:
    """Return the text of config/schema.json and of every such page, by its path in the repository."""
    from pruning.config.schema import Config

    makers = {
        "results": results,
        "configuration": configuration,
        "command-line": command_line,
        "columns": columns,
        "families": families,
    }
    pages = {f"docs/reference/{name}.md": f"{MADE}{make().rstrip()}\n" for name, make in makers.items()}
    return {"config/schema.json": json.dumps(Config.model_json_schema(), indent=2) + "\n", **pages}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; bars and ends of lines in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        f"| {' | '.join(' '.join(str(c).replace('|', chr(92) + '|').split()) for c in line)} |\n" for line in lines
    )


def results() -> str:
    """Return the default's tables and figures with their captions."""
    from pruning.config.default import DEFAULT
    from pruning.paper import catalogue as paper
    from pruning.report import catalogue

    entries = {**catalogue.tables(DEFAULT), **paper.tables(DEFAULT), "costs": catalogue.costs(())}
    drawn = {**catalogue.figures(DEFAULT), **paper.figures(DEFAULT)}
    rows = [(f"`{name}`", entry.caption) for name, entry in sorted(entries.items())]
    rows += [(f"`figures/{name}`", entry.caption) for name, entry in sorted(drawn.items())]
    return f"""# Tables and figures

What the default configuration makes in `results/`, by `snakemake --cores 8 paper` or one at a time, as
`snakemake --cores 8 results/table1.csv`. Tables come as `.csv` (tidy), `.md` and `.tex`, figures as `.svg` and
`.png`. All carry the uncertainty of the choice of test items. The paper's numbers:
[resources/paper](../../resources/paper/README.md).

{table(("file in `results/`", "what"), rows)}"""


SECTIONS = ("models", "datasets", "calibrations", "methods", "tasks", "tunings", "budgets", "tables")


def configuration() -> str:
    """Return a table per section of the configuration, from the schema that validates it."""
    from pruning.config.schema import Config

    schema = Config.model_json_schema()
    alone = {key: own for key, own in schema["properties"].items() if not referred(own)}
    text = """# Configuration

Every key, from `config/schema.json`. [config/config.yaml](../../config/config.yaml) has each with its default and the
same words; [config/README.md](../../config/README.md) says how files are stacked. Unknown keys, unknown names and wrong
types end the run before any job.

"""
    text += f"## Single values\n\n{keys(alone, schema.get('required', []), schema['$defs'])}\n"
    for key, own in schema["properties"].items():
        if key not in alone:
            name = f"{key}.<name>" if key in SECTIONS else key
            text += f"## {key}\n\n{sentence(own.get('description', ''))}" + "".join(
                described(name, own, schema["$defs"])
            )
    return text


def referred(field: Mapping[str, Any]) -> list[str]:
    """Return the definitions that a field of the schema refers to, in order."""
    if "$ref" in field:
        return [field["$ref"].rpartition("/")[2]]
    parts = [*field.get("anyOf", []), *field.get("oneOf", []), *field.get("patternProperties", {}).values()]
    parts += [field[key] for key in ("items", "additionalProperties") if isinstance(field.get(key), dict)]
    return [name for part in parts for name in referred(part)]


def described(name: str, field: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterable[str]:
    """Yield a table for each definition that a field may be, then those of the fields in it."""
    for kind in (kinds := referred(field)):
        own = defs[kind]
        which = own["properties"].get("kind", {}).get("const")
        if "." in name or len(kinds) > 1:
            yield f"### `{name}`{f', kind `{which}`' if which else ''}\n\n"
        yield f"{sentence(own.get('description', ''))}{keys(own['properties'], own.get('required', []), defs)}\n"
        for key, inner in own["properties"].items():
            yield from described(f"{name}.{key}", inner, defs)


def sentence(text: str) -> str:
    return f"{' '.join(text.split())}\n\n" if text else ""


def keys(properties: Mapping[str, Any], required: Sequence[str], defs: Mapping[str, Any]) -> str:
    """Return the table of some keys."""
    rows = [
        (
            f"`{key}`",
            kind(own, defs),
            "required" if key in required else f"`{json.dumps(own.get('default'))}`",
            own.get("description", ""),
        )
        for key, own in properties.items()
    ]
    return table(("key", "type", "default", "meaning"), rows)


LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def kind(field: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """Return the type of a field of the schema in words."""
    if "$ref" in field or "oneOf" in field or "patternProperties" in field:
        return "mapping"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field:
        found = list(dict.fromkeys(kind(part, defs) for part in field["anyOf"] if part))
        return " or ".join(found) if all(field["anyOf"]) else f"{' or '.join(found)}, or another name"
    limits = " and ".join(f"{sign} {field[key]}" for key, sign in LIMITS.items() if key in field)
    if field.get("type") == "array" and isinstance(field.get("items"), dict):
        return f"list of {kind(field['items'], defs)}"
    name = {"object": "mapping", "null": "null", "boolean": "true or false", "array": "list"}.get(field.get("type", ""))
    return " ".join(filter(None, (name or field.get("type", "any"), limits)))


def command_line() -> str:
    """Return the options of `prune`, from the class that typer reads them from."""
    from pruning.command.line import Asked

    hints, rows = get_type_hints(Asked, include_extras=True), []
    for own in fields(Asked):
        given, told = get_args(hints[own.name])[:2]
        flag = (
            "`MODEL`"
            if own.name == "model"
            else f"`--{own.name}{'' if given is bool else ' ' + (told.metavar or shape(given))}`"
        )
        rows.append((flag, value(own.name, own.default), told.help))
    return f"""# Command line

| command | what |
|---|---|
| `prune MODEL --data FILE` | prune a model on your data, measure what is left, and take the one to use |
| `prune plan MODEL --data FILE` | print its jobs, minutes, memory and disk; nothing runs, but the model is fetched |
| `prune status [--out FOLDER]` | what a run is at, what failed, and the last words of its log |
| `prune` | on a terminal: asks for what it needs |
| `prune --version` | the version |

Options of `prune` and `prune plan`, as `prune --help` shows them:

{table(("option", "default", "meaning"), rows)}
Everything else is a Snakemake command: [run, stop, resume](../howto/resume.md)."""


def shape(given: Any) -> str:
    """Return how a value of that type is written on a command line."""
    parts = [part for part in get_args(given) if part is not type(None)] or [given]
    while any(get_origin(part) for part in parts):
        parts = [inner for part in parts for inner in (get_args(part) or [part])]
    if all(isinstance(part, str) for part in parts):
        return "|".join(parts)
    return {int: "N", float: "X"}.get(parts[0], parts[0].__name__.upper().replace("STR", "TEXT"))


def value(name: str, default: Any) -> str:
    if name == "cores":
        return "all of this machine"
    return "" if default is None or not isinstance(default, str | int | float) or default is False else f"`{default}`"


ROWS = {
    "model": "alias of the model",
    "calib": "alias of the calibration; empty for the dense model",
    "seed": "the calibration's seed",
    "method": "alias of the method",
    "sparsity": "fraction of FFN neurons to remove; 0 for the dense model",
    "achieved_sparsity": "fraction of FFN neurons that the mask removes",
    "params_removed": "fraction of all parameters removed",
    "task": "alias of the task",
    "tuning": "alias of the recovery; empty without one",
    "metric": "lm-eval's name with its filter; `perplexity`, or `bits_per_byte` with `per: byte`; `kl`, nats per token",
    "n": "items; of a perplexity predicted tokens; of bits per byte bytes",
    "windows": "windows of a perplexity; pieces of text of bits per byte",
    "clusters": "templates that items share",
    "value": "accuracy as a fraction, or perplexity, bits per byte, or KL divergence",
    "ci_low": "lower end of its interval: Wilson, or t over blocks of windows",
    "ci_high": "upper end",
    "reference": "what it is compared with",
    "delta": "value minus the reference's, on the same items",
    "delta_low": "lower end of its interval: paired bootstrap, or t over blocks",
    "delta_high": "upper end",
    "test": "exact McNemar, or paired t over blocks of windows",
    "discordant": "items that one of the two solves and the other does not",
    "p_value": "of that test, not adjusted",
    "p_holm": "adjusted over all comparisons of a model and calibration",
    "design_effect": "variance of the mean difference with clusters over that without",
    "p_cluster": "of the cluster-robust t-test",
    "p_cluster_holm": "adjusted, over those that have one",
    "published": "the paper's number, where the model is the paper's",
    "mean_tokens": "mean length of generated answers, in tokens",
    "cut_off": "fraction of answers that reach the limit or loop",
    "no_answer": "fraction of answers in which none was found",
    "repetition": "mean share of 4-grams that occurred before",
}
ITEMS = {
    "item": "number of the item",
    "item_hash": "document, prompt and target; of a perplexity the window's tokens, of bits per byte the piece's bytes",
    "metric": "lm-eval's name; `perplexity`, `bits_per_byte`; `kl`, where a text's task sets `divergence`",
    "value": "0 or 1; or the window's summed negative log-likelihood, or KL divergence from the dense model, in nats; "
    "for bits per byte in bits",
    "weight": "1, or predicted tokens, or bytes",
    "cluster": "template of a generated problem, else null: items of a cluster are alike",
    "prediction": "the answer that was found",
    "target": "the right one",
    "generated_tokens": "length of the answer; empty for scored options and perplexities, as all below",
    "finish_reason": "`stop`; `length`, the limit; `loop`, not written on because it repeated itself (by `hf` alone)",
    "repetition": "share of 4-grams that occurred before",
    "prompt": "as it was asked, in the chat format if there is one",
    "response": "the text generated",
}


def columns() -> str:
    """Return the columns of calibration statistics, of items and of tables, as the code that writes them lists them."""
    from pruning.analysis import comparison
    from pruning.calibration import columns as measured
    from pruning.evaluation import samples

    said = dict(line.split(maxsplit=1) for line in (measured.__doc__ or "").splitlines() if "   " in line.strip())
    names = measured.neuron_columns(["<obj>"])
    said |= {"n_tokens": "counted tokens", "n_samples": "counted samples"}
    sums = [(f"`{name}`", said[name] if name in measured.COUNTS else f"`{said[name]}`") for name in names]
    return f"""# Columns

Of the files that are read most; all files: [artefacts](../artefacts.md).

## Statistics

`{{model}}/calibration/{{calib}}/statistics.parquet`: one row per neuron, `layer`, `unit` and these sums in float64.
$a$ is `down_proj`'s input, $g$ the gradient of an objective with respect to it, $p = a g$; `<obj>` is each objective of
the calibration.

{table(("column", "sum"), sums)}
`layers.parquet` has one row per layer: {listed(measured.LAYER_COLUMNS)}. `token_classes.parquet` has one row per neuron
and class ({", ".join(measured.TOKEN_CLASSES)}): {listed(measured.token_class_columns(["<obj>"]))}.

## Items

`{{model}}/eval/{{variant}}/{{task}}.samples.parquet`: one row per item and metric.

{table(("column", "meaning"), meanings(samples.COLUMNS, ITEMS))}
## Tables

`{{table}}.csv`: one row per model, calibration, method, sparsity, task and metric.

{table(("column", "meaning"), meanings(comparison.COLUMNS, ROWS))}"""


def listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def meanings(names: Sequence[str], said: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each column with its meaning. Raises ValueError where these are not the columns that there are."""
    if missing := set(names) ^ set(said):
        raise ValueError(f"scripts/pruning/command/reference.py: {sorted(missing)}: not both a column and a meaning")
    return [(f"`{name}`", said[name]) for name in names]


def families() -> str:
    """Return what each model family can be pruned of, and where it runs afterwards."""
    from pruning.models.families import FAMILIES
    from pruning.models.gguf.model import AS_DECI, STOCK
    from pruning.models.multimodal import KINDS

    kinds = listed(sorted(KINDS))

    def yes(holds: bool) -> str:
        return "yes" if holds else "no"

    rows = [
        (
            f"`{name}`",
            yes(bool(own.qkv)),
            yes(not own.norm_after and not own.hybrid and name != "granite"),
            yes(name in STOCK),
            yes(name in AS_DECI),
            "not tried" if own.hybrid else "equal widths" if name == "granite" else "yes",
        )
        for name, own in FAMILIES.items()
    ]
    head = (
        "model type",
        "key-value groups",
        "residual reconstruction",
        "GGUF, equal widths",
        "GGUF, different widths",
        "vLLM",
    )
    return f"""# Families and runtimes

By transformers' model type (`config.json`). FFN neurons are pruned in all of them, and all load in transformers, peft
and lm-eval. Each line is tested on tiny random models (`tests/unit/`).

{table(head, rows)}
* *Residual reconstruction*: `corrective_<m>`, `attention_<m>` and `block_<m>`. Elsewhere use `ridge_<m>` or
  `sequential_<m>`.
* *GGUF*: llama.cpp and Ollama ([types and widths](../howto/llama-cpp.md)). Different widths also as `export: pad`.
* *vLLM*: checked on a CPU alone ([what was checked](../howto/vllm.md#what-was-checked)). Models with key-value groups
  removed are not for it.
* Mixtures of experts, encoder-decoders and hybrids whose FFN has no gate (Nemotron-H) are refused by name.

## Multimodal models

Of {kinds} the text part is pruned, if it is one of the above. It becomes a model of its own, which is measured on text
alone. The export has it, and the whole in `multimodal/` beside it: vision and projections byte for byte as they were,
loaded by `AutoModelForImageTextToText`. Layers of different sizes need `trust_remote_code=True` there. The vocabulary
cannot be cut. Another kind, or a text part of no known family, is refused by name before any job. What pruning does to
answers about images was not measured."""
