"""
Budgets: the least sparsity at which a method's model costs no more than budgets.{budget} of the config. Parameters and bytes are
counted, times are measured in turn with the dense model's, in a process that takes all cores for itself.

INPUT
    results/{model}/scores/{calib}/{method}.parquet
    results/{model}/calibration/{calib}/layers.parquet
    results/{model}/base/manifest.json                          the dense model
OUTPUT
    results/{model}/budget/{calib}/{method}/{budget}.json       the sparsity, what it costs, and what was tried
"""

from pruning.config.budgets import TIMED as TIMED_BUDGETS


def budget_timed(wildcards):
    return CONFIG.budgets[wildcards.budget].kind in TIMED_BUDGETS


def budget_scores(wildcards):
    """The scores, if the budget can be met at all."""
    checked(preflight.check_budget, CONFIG, *(getattr(wildcards, key) for key in ("budget", "model", "method")))
    return names.SCORES.format(**wildcards)


def budget_settings(wildcards):
    own, method = CONFIG.budgets[wildcards.budget], CONFIG.method(wildcards.method)
    kept = {"allocate": method.allocate, "options": method.allocate_options}
    kept |= method.least | {key: getattr(method, key) for key in ("round_to", "compensate", "export")}
    asked = {"kind": own.kind, "text": own.text, "value": own.amount.value, "share": own.amount.share}
    if budget_timed(wildcards):
        keys = ("prompt_tokens", "decode_tokens", "rounds", "warmup")
        asked |= {"dtype": CONFIG.models[wildcards.model].dtype, **{key: getattr(own, key) for key in keys}}
        asked |= catalogue.statistical(CONFIG, "confidence", "resamples", "seed")
    return settings(None, **kept, **asked)


rule budget:
    """The sparsity at which one method meets a budget."""
    input:
        scores=budget_scores,
        layers=names.LAYERS,
        base=names.BASE,
        measured=measured_cuts,
        latencies=latencies,
        code=lambda w: code("budget", f"methods/allocation/{CONFIG.method(w.method).allocate}"),
        launch=LAUNCH,
    output:
        names.BUDGET,
    log:
        log_of(names.BUDGET),
    benchmark:
        benchmark_of(names.BUDGET)
    wildcard_constraints:
        budget=one_of(CONFIG.budgets),
    conda:
        "../envs/gpu.yaml"
    threads: lambda w: ALL_CORES if budget_timed(w) else 1
    resources:
        gpu=lambda w: gpus(w) if budget_timed(w) else 0,
        mem_mb=memory_mb,
    params:
        settings=budget_settings,
        measured=measured_options,
    shell:
        "python {input.launch:q} --gpus {resources.gpu} -- "
        "python {input.code[0]:q} --settings {params.settings:q} --scores {input.scores:q} --layers {input.layers:q} "
        "--base {input.base:q} {params.measured:q} --output {output:q} --threads {threads} > {log:q} 2>&1"
