"""The cards of an exported model and of a GGUF file: what it is, how it was made, what was measured, how to load it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [pruned, structural-pruning]
{% if source.kind == "hub" %}
base_model: {{ source.repo }}
{% endif %}
---
# {{ name }}

A structurally pruned model: {{ variant.sparsity }}% of {% if others -%}
the parameters of its feed-forward layers are removed, in {{ counted }} and in {{ others | join(" and ") }}
{%- else -%}
the {{ counted }} of its feed-forward layers are removed
{%- endif %}.{% if note %} Base: {{ note }}.{% endif +%}

| | |
|---|---|
| base model | {{ source | origin }} |
| licence | the base model's |
| method | `{{ variant.method }}` ({{ method | described }}) |
| {{ counted }} of its FFNs removed | {{ "{:.1%}".format(made.achieved_sparsity) }} (asked: {{ variant.sparsity }}%) |
| parameters | {{ "{:,} of {:,}".format(made.parameters_kept, made.parameters) }} |
| {{ "FFN widths" if counted == "neurons" else counted }} | {{ made.widths | widths }} |
{% for title, units in others.items() %}
| {{ title }} | {{ units | widths }} |
{% endfor %}
{% if "vocabulary" in made %}
| vocabulary | {{ "{kept:,} of {of:,} tokens".format(**made.vocabulary) }}, chosen for {{ calibration.dataset }} |
{% endif %}
| calibrated on | {{ calibration.dataset }}, {{ calibration.samples }} samples of {{ calibration.sequence_length }} \
tokens, seed {{ calibration.seed }} |
{% if tuning %}
| recovered on | {{ tuning.dataset }}, LoRA of rank {{ tuning.rank }}, {{ tuning.steps }} steps |
{% endif %}

## Measured

{{ results | table(confidence) }}

## Load

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained("{{ name }}"{{ ", trust_remote_code=True" if own_code }})
    tokenizer = AutoTokenizer.from_pretrained("{{ name }}")

{% if own_code %}
Its layers have widths of their own, or biases, for which there is no stock class: `modeling_pruned.py` builds them.
{% endif %}

{% if "transformers, with the rest" in checks %}
It is the text part of a multimodal model. `multimodal/` holds all of that, with this text part in it and the rest as it
was, byte for byte: `AutoModelForImageTextToText` loads it{{ ", with `trust_remote_code=True`" if own_code }}. Only \
text was measured.

{% endif %}
Checked when it was written, on {{ tokens }} tokens of text, in {{ dtype }}: {{ checks | said }}.
manifest.json has the sha256 of every file, and where all of it came from.
"""

GGUF_CARD = """\
# {{ name }}, {{ type }}

`{{ type }}.gguf` for llama.cpp and what is built on it: {{ "the dense model" if variant == "dense" else
"a pruned model, whose card is in `../model/README.md`" }}.

| | |
|---|---|
| architecture | `{{ architecture }}`{{ ", which takes a width per layer" if architecture == "deci" }} |
| size | {{ "{:,.1f}".format(bytes / 1e6) }} MB |
{% if experts is defined %}
| experts | {{ experts | widths }} |
{% endif %}
| FFN widths | {{ made_of | widths }} |
| tensors | {% for kind, number in tensors.items() %}{{ number }} {{ kind }}{{ ", " if not loop.last }}{% endfor %} |
{% if odd %}

{{ made_of | select("in", odd) | list | length }} of its {{ made_of | length }} FFN widths are no multiples of \
{{ block }}: their down_proj is stored in larger types ({{ odd.values() | unique | sort | join(", ") }}), as \
llama.cpp does; `round_to: {{ block }}` in the method makes them multiples.
{% endif %}

    llama-cli -m {{ type }}.gguf
    ollama create {{ name }}-{{ type }} -f {{ type }}.Modelfile
    llama_cpp.Llama("{{ type }}.gguf")    # llama-cpp-python

Checked when it was written, against the model in {{ dtype }} in transformers: \
{{ checks | said if checks else "not at all, llama-cpp-python is not installed" }}.
"""


def card(
    settings: Mapping[str, Any],
    manifest: Mapping[str, Any],
    others: Mapping[str, Sequence[int]],
    results: Sequence[Mapping[str, Any]],
    checks: Mapping[str, Any],
    tokens: int,
    own_code: bool,
) -> str:
    """Markdown. others: title -> units of each layer, of structures that are cut beside FFN neurons. results: `title`,
    `metric`, `dense` and `pruned`, each a measure (comparison.measure) or None."""
    told = {"made": manifest, "counted": manifest.get("counted", "neurons"), "others": others, "results": results}
    return _rendered(CARD, **settings, **told, checks=checks, tokens=tokens, own_code=own_code)


def modelfile(settings: Mapping[str, Any], file: str) -> str:
    """Return what Ollama makes a model of a GGUF file beside it by, greedy as it was measured."""
    create = f"ollama create NAME -f {Path(file).stem}.Modelfile"
    return f"# {settings['name']}: {create}\nFROM ./{file}\nPARAMETER temperature 0\n"


def gguf_card(settings: Mapping[str, Any], content: Mapping[str, Any], block: int, odd: Mapping[int, str]) -> str:
    """Markdown. content: of the file's manifest. block: values that its type stores together. odd: FFN widths that
    are no multiples of it -> the type in which their down_proj is stored."""
    told = {**settings, **content, "made_of": content["widths"], "odd": odd, "block": block}
    return _rendered(GGUF_CARD, **told)


def _rendered(template: str, **values: Any) -> str:
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701
    environment.filters |= {"origin": origin, "described": described, "widths": widths, "table": table, "said": said}
    return environment.from_string(template).render(values) + "\n"


def origin(source: Mapping[str, Any]) -> str:
    """Where the base model came from."""
    if source["kind"] == "hub":
        return f"{source['repo']} at {source['revision']}"
    if source["kind"] == "gguf":
        file, package = (ends(source[key], source["parts"]) for key in ("path", "package"))
        several = "packages" if "…" in (package or "") else "package"
        where = f" in the Python {several} {package} {source['version'] or ''}".rstrip() if package else ""
        return f"{file}{where}, dequantised"
    return source.get("path") or f"{source['model']}, pruned before ({source['method']}, {source['sparsity']}%)"


def ends(template: str | None, parts: int | None) -> str | None:
    """The first and the last of numbered parts (`{part}`), if there are some."""
    if not (template and parts):
        return template
    return " … ".join(dict.fromkeys(template.format(part=number) for number in (1, parts)))


def described(method: Mapping[str, Any]) -> str:
    """A method's settings in words."""
    options = ", ".join(f"{key}: {value}" for key, value in method["options"].items())
    parts = [f"score {method['score']}" + (f" of {options}" if options else "")]
    parts += [f"normalised by {method['normalise']}"] if method["normalise"] != "none" else []
    parts += [f"{method['allocate']} widths" + (", whole layers may be removed" if method.get("drop_layers") else "")]
    parts += [f"compensated by {method['compensate']}"] if method["compensate"] != "none" else []
    return "; ".join(parts)


def widths(values: Sequence[int]) -> str:
    """Numbers of the layers, one where they are all the same."""
    return f"{values[0]} in each of {len(values)} layers" if len(set(values)) == 1 else ", ".join(map(str, values))


def table(results: Sequence[Mapping[str, Any]], confidence: float) -> str:
    """What was measured of the exported model, beside the dense one."""
    lines = [f"| task, metric | this model, {100 * confidence:g}% interval | dense model | of |", "|---|---|---|---|"]
    for row in results:
        if own := row["pruned"]:
            parts = row["parts"] or ("pieces" if row["metric"] == "bits_per_byte" else "windows")
            of = f"{own['windows']} {parts}" if own.get("windows") else f"{own['n']} items"
            dense = shown(row["dense"], row["metric"]) if row["dense"] else "not measured"
            lines.append(f"| {row['title']}, {row['metric']} | {shown(own, row['metric'])} | {dense} | {of} |")
    return "\n".join(lines) if lines[2:] else "Nothing has been measured of this model."


def shown(measure: Mapping[str, Any], metric: str) -> str:
    """A value with its interval."""
    numbers = [measure[key] for key in ("value", "ci_low", "ci_high")]
    if metric in ("perplexity", "bits_per_byte", "kl"):
        return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*numbers, d=2 if metric == "perplexity" else 4)
    return "{:.1f}% [{:.1f}, {:.1f}]".format(*(100 * number for number in numbers))


def said(checks: Mapping[str, Mapping[str, Any]]) -> str:
    """What each tool's check found."""
    parts = []
    for name, found in checks.items():
        same = {True: ", the same text", False: ", another text from some token on"}.get(found.get("same_text"), "")
        divergence = f", KL divergence {found['kl_divergence']:.1g} nats a token" if "kl_divergence" in found else ""
        parts.append(f"{name}: logits within {found['max_difference']:.1g}{divergence}{same}")
    return "; ".join(parts)
