"""
Masks: which neurons stay, at one sparsity. All sparsities come from one score file, and from one measurement of what
cutting each layer costs where the method's allocation asks for it (`sensitivity`, `greedy`).

INPUT
    results/{model}/scores/{calib}/{method}.parquet
    results/{model}/calibration/{calib}/layers.parquet              layer importance, for allocations that want it
    results/{model}/base/manifest.json                              widths before any pruning, which sparsity is counted against
    results/{model}/latency_table.parquet                           for allocations that keep to a speed (`per`)
    results/data/{dataset}/{split}.parquet, …/second_moments.json   for that measurement; the latter, of every structure, where
                                                                    the method refits
OUTPUT
    results/{model}/sensitivity/{calib}/{method}.parquet            layer, width, divergence, passes: one row a cut; of
                                                                    `sensitivity_joint` also structure
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet       layer, unit, keep; of key-value groups, too: structure
"""


def sensitivity_settings(wildcards):
    method = CONFIG.method(wildcards.method)
    own = {"probed": CONFIG.calibrations[wildcards.calib].probed, **method.least}
    search = allocation.search_of(method.allocate)
    return calibration_settings(wildcards, ["objectives", "gradient_checkpointing"], search=search, **own)


rule sensitivity:
    """What cutting each layer costs one method."""
    input:
        model=names.BASE,
        data=calibration_data,
        scores=shared(names.SCORES),
        evidence=files_of("sensitivity"),
        moments=matrices_of("sensitivity"),
        code=code("measure", "methods/sensitivity"),
    output:
        names.SENSITIVITY,
    params:
        settings=sensitivity_settings,
        model=subpath(input.model, parent=True),
        evidence=evidence_of("sensitivity"),
    shell:
        on_gpu(
            "--what methods/sensitivity --model {params.model:q} --data {input.data:q} --evidence "
            "scores={input.scores:q} {params.evidence:q} --output {output:q}"
        )


def mask_settings(wildcards):
    method = CONFIG.method(wildcards.method)
    kept = {"allocate": method.allocate, "options": method.allocate_options}
    return settings(None, **kept, **method.least, round_to=method.round_to)


rule mask:
    """The mask of one method at one sparsity (per cent of FFN neurons removed)."""
    input:
        scores=shared(names.SCORES),
        base=names.BASE,
        evidence=files_of("mask"),
        code=lambda w: code("mask", f"methods/allocation/{CONFIG.method(w.method).allocate}"),
    output:
        names.MASK,
    params:
        settings=mask_settings,
        evidence=evidence_of("mask"),
    shell:
        on_cpu(
            "--scores {input.scores:q} --base {input.base:q} --sparsity {wildcards.sparsity} {params.evidence:q} "
            "--output {output:q}"
        )
