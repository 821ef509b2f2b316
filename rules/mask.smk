"""
Masks: which neurons stay, at one sparsity. All sparsities come from one score file.

INPUT
    results/{model}/scores/{calib}/{method}.parquet
    results/{model}/calibration/{calib}/layers.parquet              layer importance, for allocations that want it
    results/{model}/base/manifest.json                              widths before any pruning, which sparsity is counted against
OUTPUT
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet       layer, unit, keep
"""


def mask_settings(wildcards):
    method = CONFIG.method(wildcards.method)
    kept = {"allocate": method.allocate, "options": method.allocate_options}
    return settings(None, **kept, min_keep=method.min_keep, round_to=method.round_to)


rule mask:
    """The mask of one method at one sparsity (per cent of FFN neurons removed)."""
    input:
        scores=names.SCORES,
        layers=names.LAYERS,
        base=names.BASE,
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
    shell:
        "python {input.code[0]:q} --settings {params.settings:q} --scores {input.scores:q} "
        "--layers {input.layers:q} --base {input.base:q} --sparsity {wildcards.sparsity} --output {output:q} > {log:q} 2>&1"
