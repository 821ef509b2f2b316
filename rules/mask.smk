"""
Masks: which neurons stay, at one sparsity. All sparsities come from one score file.

INPUT
    results/{model}/scores/{calib}/{method}.parquet
    results/{model}/calibration/{calib}/layers.parquet              layer importance, for allocations that want it
OUTPUT
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet       layer, neuron, keep
"""


rule mask:
    """The mask of one method at one sparsity (per cent of FFN neurons removed)."""
    input:
        scores="results/{model}/scores/{calib}/{method}.parquet",
        layers=f"{CALIBRATION}/layers.parquet",
        code=lambda w: code("mask", f"methods/allocation/{CONFIG.method(w.method).allocate}"),
    output:
        "results/{model}/masks/{calib}/{method}/{sparsity}.parquet",
    log:
        "results/logs/{model}/masks/{calib}/{method}/{sparsity}.log",
    benchmark:
        "results/benchmarks/{model}/masks/{calib}/{method}/{sparsity}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
    params:
        settings=mask_settings,
    shell:
        "python scripts/mask.py --settings {params.settings:q} --scores {input.scores:q} "
        "--layers {input.layers:q} --sparsity {wildcards.sparsity} --output {output:q} > {log:q} 2>&1"
