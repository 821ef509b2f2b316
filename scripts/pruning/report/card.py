"""The card of an exported model: what it is, how it was made, what was measured of it, how to load it."""

from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

CARD = Template("""---
library_name: transformers
pipeline_tag: text-generation
tags: [pruned, structural-pruning]
$base---
# $name

$what

| | |
|---|---|
| base model | $source |
| licence | the base model's |
| method | $method |
| neurons of its FFNs removed | $achieved (asked: $asked) |
| parameters | $kept of $parameters |
| FFN widths | $widths |
$groups| calibrated on | $calibration |
$tuned
## Measured

$measured

## Load

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained("$name"$trust)
    tokenizer = AutoTokenizer.from_pretrained("$name")

$code
Checked when it was written, on $tokens tokens of text, in $dtype: $checks
manifest.json has the sha256 of every file, and where all of it came from.
""")


def card(
    settings: Mapping[str, Any],
    manifest: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    checks: Mapping[str, Any],
    tokens: int,
    own_code: bool,
) -> str:
    """Markdown. results: `title`, `metric`, `dense` and `pruned`, each a measure (comparison.measure) or None."""
    variant, source = settings["variant"], settings["source"]
    repo = f"base_model: {source['repo']}\n" if source["kind"] == "hub" else ""
    gone = "the neurons of its feed-forward layers are gone"
    if groups := manifest.get("kv_groups"):
        gone = "the parameters of its feed-forward layers are gone, in neurons and in key-value groups of attention"
        groups = f"| key-value groups | {widths(groups)} |\n"
    what = f"A structurally pruned model: {variant['sparsity']}% of {gone}."
    if settings["note"]:
        what += f" Base: {settings['note']}."
    calibration = settings["calibration"]
    shown = (
        f"{calibration['dataset']}, {calibration['samples']} samples of {calibration['sequence_length']} tokens, "
        f"seed {calibration['seed']}"
    )
    tuned = ""
    if tuning := settings["tuning"]:
        tuned = f"| recovered on | {tuning['dataset']}, LoRA of rank {tuning['rank']}, {tuning['steps']} steps |\n"
    return CARD.substitute(
        base=repo,
        name=settings["name"],
        what=what,
        source=origin(source),
        method=f"`{variant['method']}` ({described(settings['method'])})",
        achieved=f"{manifest['achieved_sparsity']:.1%}",
        asked=f"{variant['sparsity']}%",
        kept=f"{manifest['parameters_kept']:,}",
        parameters=f"{manifest['parameters']:,}",
        widths=widths(manifest["widths"]),
        groups=groups or "",
        calibration=shown,
        tuned=tuned,
        measured=table(results, settings["confidence"]),
        trust=", trust_remote_code=True" if own_code else "",
        code=OWN_CODE if own_code else "",
        tokens=tokens,
        dtype=settings["dtype"],
        checks="; ".join(f"{name}: {said(found)}" for name, found in checks.items()) + ".",
    )


OWN_CODE = (
    "Its layers have widths of their own, or biases, for which there is no stock class: `modeling_pruned.py` "
    "builds them.\n"
)


GGUF_CARD = Template("""# $name, $type

`$file` for llama.cpp and what is built on it: $what.

| | |
|---|---|
| architecture | `$architecture`$how |
| size | $megabytes MB |
| FFN widths | $widths |
| tensors | $tensors |
$fallback
    llama-cli -m $file
    llama_cpp.Llama("$file")    # llama-cpp-python

Checked when it was written, against the model in $dtype in transformers: $checks
""")


def gguf_card(settings: Mapping[str, Any], content: Mapping[str, Any], block: int) -> str:
    """Markdown. content: of the file's manifest. block: values that its type stores together."""
    own, dense = content["architecture"], settings["variant"] == "dense"
    kept = [width for width in content["widths"] if width % block]
    fallback = ""
    if kept:
        fallback = (
            f"\n{len(kept)} of its {len(content['widths'])} FFN widths are no multiples of {block}: their down_proj "
            f"is stored in a larger type, as llama.cpp does; `round_to: {block}` in the method makes them multiples.\n"
        )
    checks = "; ".join(f"{name}: {said(found)}" for name, found in content["checks"].items())
    return GGUF_CARD.substitute(
        name=settings["name"],
        what="the dense model" if dense else "a pruned model, whose card is in `../model/README.md`",
        type=content["type"],
        file=f"{content['type']}.gguf",
        architecture=own,
        how=", which takes a width a layer" if own == "deci" else "",
        megabytes=f"{content['bytes'] / 1e6:,.1f}",
        widths=widths(content["widths"]),
        tensors=", ".join(f"{number} {kind}" for kind, number in content["tensors"].items()),
        fallback=fallback,
        dtype=settings["dtype"],
        checks=f"{checks}." if checks else "not at all, llama-cpp-python is not installed.",
    )


def ends(template: str | None, parts: int | None) -> str | None:
    """The first and the last of numbered parts (`{part}`), if there are some."""
    if not (template and parts):
        return template
    return " … ".join(dict.fromkeys(template.format(part=number) for number in (1, parts)))


def origin(source: Mapping[str, Any]) -> str:
    if source["kind"] == "hub":
        return f"{source['repo']} at {source['revision']}"
    if source["kind"] == "gguf":
        file, package = (ends(source[key], source["parts"]) for key in ("path", "package"))
        several = "packages" if "…" in (package or "") else "package"
        where = f" in the Python {several} {package} {source['version'] or ''}".rstrip() if package else ""
        return f"{file}{where}, dequantised"
    return source.get("path") or f"{source['model']}, pruned before ({source['method']}, {source['sparsity']}%)"


def described(method: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key}: {value}" for key, value in method["options"].items())
    parts = [f"score {method['score']}" + (f" of {options}" if options else "")]
    parts += [f"normalised by {method['normalise']}"] if method["normalise"] != "none" else []
    parts += [f"{method['allocate']} widths" + (", whole layers may go" if method.get("drop_layers") else "")]
    parts += [f"compensated by {method['compensate']}"] if method["compensate"] != "none" else []
    return "; ".join(parts)


def widths(values: Sequence[int]) -> str:
    return f"{values[0]} in each of {len(values)} layers" if len(set(values)) == 1 else ", ".join(map(str, values))


def table(results: Sequence[Mapping[str, Any]], confidence: float) -> str:
    if not any(row["pruned"] for row in results):
        return "Nothing has been measured of this model."
    lines = [f"| task, metric | this model, {confidence:.0%} interval | dense model | of |", "|---|---|---|---|"]
    for row in results:
        if row["pruned"]:
            size = row["pruned"].get("windows")
            of = f"{size} windows" if size else f"{row['pruned']['n']} items"
            dense = shown(row["dense"], row["metric"]) if row["dense"] else "not measured"
            lines.append(
                f"| {row['title']}, {row['metric']} | {shown(row['pruned'], row['metric'])} | {dense} | {of} |"
            )
    return "\n".join(lines)


def shown(measure: Mapping[str, Any], metric: str) -> str:
    if metric == "perplexity":
        return f"{measure['value']:.2f} [{measure['ci_low']:.2f}, {measure['ci_high']:.2f}]"
    return "{:.1f}% [{:.1f}, {:.1f}]".format(*(100 * measure[key] for key in ("value", "ci_low", "ci_high")))


def said(found: Mapping[str, Any]) -> str:
    same = {True: ", the same text", False: ", another text from some token on"}.get(found.get("same_text"), "")
    divergence = f", KL divergence {found['kl_divergence']:.1g} nats a token" if "kl_divergence" in found else ""
    return f"logits within {found['max_difference']:.1g}{divergence}{same}"
