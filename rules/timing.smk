"""
How fast models are, measured in turn in one process that takes all cores for itself; and budgets, which are counted or measured so.

INPUT
    what evaluation loads of every model of a table                 rules/evaluate.smk: manifests, weights, masks, adapters
    results/{model}/base/manifest.json                              the dense model, or its shape (a shape may be the config's own)
    results/{model}/masks/{variant}.parquet                         widths of pruned models
    results/{model}/quantised/{variant}/{type}.gguf, .json          rules/quantise.smk; of variants of the model and of its siblings
    results/{model}/scores/{calib}/{method}.parquet                 of budgets; with what the mask is made of (mask.smk)
OUTPUT
    results/{model}/latency_table.parquet                           what units cost: structure, units, flops, prefill, decode
    results/latency/{shape}.csv                                     one shape with random weights, dense and narrower
    results/analysis/speed/{model}.csv                              the very models of the tables that `tradeoff` names
    results/{model}/speed/{other}/{variant}/{type}.csv              a GGUF file of {other}, the model itself or a sibling, in llama.cpp
    results/{model}/budget/{calib}/{method}/{budget}.json           the sparsity that meets budgets.{budget}, its cost, and what was tried
"""

from types import SimpleNamespace

from pruning.config import mixtures
from pruning.config.budgets import TIMED as TIMED_BUDGETS

ALL_CORES = workflow.resource_settings.cores or 4  # workflow.cores is an error where --cores is not given (--report)
TIMED = catalogue.timed(CONFIG)  # model -> its variants


def clock_settings(clock, *, exclude=(), **extra):
    """Settings of scripts/timing.py. clock: the section of the configuration."""
    chance = () if clock == "latency_table" else ("confidence", "resamples")
    own = catalogue.statistical(CONFIG, *chance, "seed")
    return settings(getattr(CONFIG, clock), exclude=exclude, clock=clock, **extra, **own)


def device(gpus):
    return "cuda" if gpus else "cpu"


def timed_model(model):
    """The manifest of a model that can be timed by its shape."""
    checked(mixtures.check_clock, CONFIG, model)
    return names.BASE.format(model=model)


def dense_parts(model):
    return {"dense": {"model": names.DENSE.weights(model), "manifest": timed_model(model)}}


def options_of(parts):
    """Variant -> its parts, on the command line of scripts/timing.py."""
    return [f"--variant={json.dumps({'variant': str(variant), **own})}" for variant, own in parts.items()]


# The rules below it share its body.
rule latency_table:
    """What a model costs with so many neurons, or key-value groups, in every layer."""
    input:
        model=lambda w: timed_model(w.model),
        code=code("timing"),
    output:
        names.LATENCY_TABLE,
    threads: ALL_CORES
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=lambda w: clock_settings("latency_table", dtype=CONFIG.models[w.model].dtype, device=device(gpus(w))),
        options=lambda w: options_of(dense_parts(w.model)),
    shell:
        on_gpu("{params.options:q} --output {output:q}")


def masked_parts(wildcards):
    """Parts of an experiment's model and of its pruned ones, of which masks are read; none of a shape of the config's own."""
    if wildcards.shape in CONFIG.latency.shapes:
        return {}
    found = dense_parts(wildcards.shape)
    for method, sparsity in product(CONFIG.latency.methods, CONFIG.latency.sparsities):
        mask = names.MASK.format(model=wildcards.shape, calib=CALIB, method=cut_as(method), sparsity=sparsity)
        found[Variant(CALIB, method, sparsity)] = {**found["dense"], "mask": mask}
    return found


def latency_settings(wildcards):
    pruned = [variant for variant in masked_parts(wildcards) if variant != "dense"]
    return clock_settings(
        "latency",
        exclude=["shapes", "methods", "gpus", "memory_gb"],
        shape=wildcards.shape,
        config=CONFIG.latency.shapes.get(wildcards.shape),
        padded=[str(variant) for variant in pruned if CONFIG.method(variant.method).export == "pad"],
        device=device(CONFIG.latency.gpus),
    )


if CONFIG.latency:

    use rule latency_table as latency with:
        """Prefill and decoding of one shape and its compact forms."""
        input:
            model=lambda w: [own["manifest"] for variant, own in masked_parts(w).items() if variant == "dense"],
            masks=lambda w: [own["mask"] for own in masked_parts(w).values() if "mask" in own],
            code=code("timing"),
        output:
            names.LATENCY,
        wildcard_constraints:
            shape=one_of(catalogue.latency_shapes(CONFIG)),
        resources:
            gpu=CONFIG.latency.gpus,
            mem_mb=grown(CONFIG.latency.memory_gb * 1000),
        params:
            settings=latency_settings,
            options=lambda w: options_of(masked_parts(w)),


def timed_variants(wildcards):
    """As rules/evaluate.smk's functions take them."""
    return [SimpleNamespace(model=wildcards.model, variant=str(v)) for v in TIMED[wildcards.model]]


def timed_files(wildcards):
    """What their models are made of; manifests and weights are shared."""
    parts = [files for variant in timed_variants(wildcards) for files in parts_of(variant).values()]
    return list(dict.fromkeys(file for files in parts for file in ([files] if isinstance(files, str) else files)))


if TIMED:

    use rule latency_table as speed with:
        """Prefill and decoding of one model's variants."""
        input:
            parts=timed_files,
            code=lambda w: code("timing", *sorted({plugin for v in timed_variants(w) for plugin in parts_code(v)})),
        output:
            PLACES.speed,
        wildcard_constraints:
            model=one_of(TIMED),
        params:
            settings=lambda w: clock_settings(
                "tradeoff", exclude=["tables", "task"], model=w.model, dtype=CONFIG.models[w.model].dtype
            ),
            options=lambda w: options_of({v.variant: parts_given(v) for v in timed_variants(w)}),


def timed_pair(wildcards):
    """The dense model's GGUF file and another, without their suffix."""
    other = names.QUANTISED.format(model=wildcards.other, variant=wildcards.variant, type=wildcards.type)
    return {"dense": names.DENSE.gguf(wildcards.model), "other": other}


def timed_pair_files(wildcards):
    """With their records, which say in place of the files, by their hashes, whether they changed."""
    checked(gguf.check_installed, "what a table at equal speed times runs in")
    return [path for stem in timed_pair(wildcards).values() for path in (ancient(f"{stem}.gguf"), f"{stem}.json")]


use rule latency_table as file_speed with:
    """A GGUF file in llama.cpp, in turn with the dense model's."""
    input:
        files=timed_pair_files,
        code=code("timing"),
    output:
        names.FILE_SPEED,
    wildcard_constraints:
        other=one_of(CONFIG.models),
        variant=rf"dense|{PRUNED}",
        type=one_of(gguf.BLOCK),
    resources:
        gpu=0,
        mem_mb=memory_mb,
    params:
        settings=lambda w: clock_settings("llama_cpp", model=w.other, variant=w.variant, type=w.type),
        options=lambda w: [f"--file={name}={stem}.gguf" for name, stem in timed_pair(w).items()],


def budget_timed(wildcards):
    return CONFIG.budgets[wildcards.budget].kind in TIMED_BUDGETS


def budget_scores(wildcards):
    """The scores, if the budget can be met at all."""
    if budget_timed(wildcards):
        timed_model(wildcards.model)
    checked(preflight.check_budget, CONFIG, *(getattr(wildcards, key) for key in ("budget", "model", "method")))
    return names.SCORES.format(**as_cut(wildcards))


def budget_settings(wildcards):
    own, method = CONFIG.budgets[wildcards.budget], CONFIG.method(wildcards.method)
    kept = {"allocate": method.allocate, "options": method.allocate_options}
    kept |= method.least | method.model_dump(include={"round_to", "compensate", "export", "vocabulary"})
    asked = {"kind": own.kind, "text": own.text, "value": own.amount.value, "share": own.amount.share}
    if budget_timed(wildcards):
        keys = ("prompt_tokens", "decode_tokens", "rounds", "warmup")
        asked |= {"dtype": CONFIG.models[wildcards.model].dtype, **{key: getattr(own, key) for key in keys}}
        asked |= catalogue.statistical(CONFIG, "confidence", "resamples", "seed")
    return settings(None, **kept, **asked)


use rule latency_table as budget with:
    """The sparsity at which one method meets a budget."""
    input:
        scores=budget_scores,
        base=names.BASE,
        evidence=files_of("mask"),
        code=lambda w: code("budget", f"methods/allocation/{CONFIG.method(w.method).allocate}"),
    output:
        names.BUDGET,
    wildcard_constraints:
        budget=one_of(CONFIG.budgets),
    threads: lambda w: ALL_CORES if budget_timed(w) else 1
    resources:
        gpu=lambda w: gpus(w) if budget_timed(w) else 0,
        mem_mb=memory_mb,
    params:
        settings=budget_settings,
        options=lambda w, input: [
            *(f"--{part}={input[part]}" for part in ("scores", "base")),
            *evidence_of("mask")(w),
        ],
