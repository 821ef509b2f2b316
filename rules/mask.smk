"""
Masks: which neurons stay, at one sparsity. All sparsities come from one score file, and from one measurement of what
cutting each layer costs where the method's allocation asks for it (`sensitivity`, `greedy`).

INPUT
    results/{model}/scores/{calib}/{method}.parquet
    results/{model}/calibration/{calib}/layers.parquet              layer importance, for allocations that want it
    results/{model}/base/manifest.json                              widths before any pruning, which sparsity is counted against
    results/{model}/latency_table.parquet                           for allocations that keep to a speed (`per`)
    results/data/{dataset}/{split}.parquet, …/second_moments.json   for that measurement; the latter where the method refits,
    …/attention_second_moments.json                                 and this one where it measures cuts of groups and refits them
OUTPUT
    results/{model}/sensitivity/{calib}/{method}.parquet            layer, width, divergence, passes: one row a cut; of
                                                                    `sensitivity_joint` also structure
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet       layer, unit, keep; of key-value groups, too: structure
"""

from pruning.methods import allocation, latency_table


def searched(wildcards):
    """What of methods/sensitivity.py the method's allocation asks for, if anything."""
    return allocation.search_of(CONFIG.method(wildcards.method).allocate)


def measured_cuts(wildcards):
    """What cuts cost, where the method's allocation asks for it."""
    return [names.SENSITIVITY.format(**wildcards)] if searched(wildcards) else []


def latencies(wildcards):
    """How fast models are, where the method's allocation keeps to a speed."""
    per = latency_table.per_of(CONFIG.method(wildcards.method).allocate_options)
    return [] if per == latency_table.PARAMETERS else [names.LATENCY_TABLE.format(**wildcards)]


def measured_options(wildcards):
    cuts, speeds = measured_cuts(wildcards), latencies(wildcards)
    return [f"--measured={path}" for path in cuts] + [f"--latencies={path}" for path in speeds]


def refitted_cuts(wildcards):
    """Second moments, where what cuts leave is refitted: by plain ridge regression, whatever the method's scheme."""
    return names.SECOND_MOMENTS.format(**wildcards) if compensation_of(wildcards).startswith("ridge") else None


def refitted_groups(wildcards):
    """The same of attention, where cuts of groups are measured and the method's scheme refits them."""
    both = measures_groups(wildcards) and compensation_of(wildcards) == "ridge_attention"
    return names.ATTENTION_SECOND_MOMENTS.format(**wildcards) if both else None


def measures_groups(wildcards):
    return bool(searched(wildcards)) and allocation.cuts_groups(CONFIG.method(wildcards.method).allocate)


def evidence_of_cuts(wildcards):
    paths = {"evidence": refitted_cuts(wildcards), "attention": refitted_groups(wildcards)}
    return [f"--{option}={path}.json" for option, path in paths.items() if path]


def moments_of_cuts(wildcards):
    return [path for path in (refitted_cuts(wildcards), refitted_groups(wildcards)) if path]


def sensitivity_settings(wildcards):
    own = {"probed": CONFIG.calibrations[wildcards.calib].probed, **CONFIG.method(wildcards.method).least}
    own |= {"groups": True} if measures_groups(wildcards) else {}
    return calibration_settings(wildcards, ["objectives", "gradient_checkpointing"], search=searched(wildcards), **own)


rule sensitivity:
    """What cutting each layer costs one method."""
    input:
        model=names.BASE,
        data=calibration_data,
        scores=names.SCORES,
        evidence=lambda w: [f"{path}.json" for path in moments_of_cuts(w)],
        moments=lambda w: [ancient(path) for path in moments_of_cuts(w)],
        code=code("sensitivity"),
        launch=LAUNCH,
    output:
        names.SENSITIVITY,
    log:
        log_of(names.SENSITIVITY),
    benchmark:
        benchmark_of(names.SENSITIVITY)
    conda:
        "../envs/gpu.yaml"
    threads: threads_of
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=sensitivity_settings,
        model=subpath(input.model, parent=True),
        evidence=evidence_of_cuts,
    shell:
        "python {input.launch:q} --gpus {resources.gpu} -- "
        "python {input.code[0]:q} --settings {params.settings:q} --model {params.model:q} --data {input.data:q} "
        "--scores {input.scores:q} {params.evidence:q} --output {output:q} --threads {threads} > {log:q} 2>&1"


def mask_settings(wildcards):
    method = CONFIG.method(wildcards.method)
    kept = {"allocate": method.allocate, "options": method.allocate_options}
    return settings(None, **kept, **method.least, round_to=method.round_to)


rule mask:
    """The mask of one method at one sparsity (per cent of FFN neurons removed)."""
    input:
        scores=names.SCORES,
        layers=names.LAYERS,
        base=names.BASE,
        measured=measured_cuts,
        latencies=latencies,
        code=lambda w: code("mask", f"methods/allocation/{CONFIG.method(w.method).allocate}"),
    output:
        names.MASK,
    log:
        log_of(names.MASK),
    benchmark:
        benchmark_of(names.MASK)
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=grown(1000),
    params:
        settings=mask_settings,
        measured=measured_options,
    shell:
        "python {input.code[0]:q} --settings {params.settings:q} --scores {input.scores:q} "
        "--layers {input.layers:q} --base {input.base:q} --sparsity {wildcards.sparsity} {params.measured:q} "
        "--output {output:q} > {log:q} 2>&1"
