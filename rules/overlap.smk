"""
Mask overlap: intersection over union of two methods' masks, per layer, 10 to 90%.

INPUT
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet
OUTPUT
    results/{model}/analysis/overlap/{calib}/{first}/{second}.csv       sparsity, layer, iou, chance
"""

OVERLAP_SPARSITIES = range(10, 100, 10)


rule overlap:
    """Agreement of two methods' masks over the sparsities."""
    input:
        first=masks_of("first"),
        second=masks_of("second"),
        code=code("overlap"),
    output:
        "results/{model}/analysis/overlap/{calib}/{first}/{second}.csv",
    log:
        "results/logs/{model}/analysis/overlap/{calib}/{first}/{second}.log",
    benchmark:
        "results/benchmarks/{model}/analysis/overlap/{calib}/{first}/{second}.tsv"
    wildcard_constraints:
        first=one_of(METHODS),
        second=one_of(METHODS),
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
    params:
        first=lambda w, input: [f"--first={path}" for path in input.first],
        second=lambda w, input: [f"--second={path}" for path in input.second],
    shell:
        "python scripts/overlap.py {params.first:q} {params.second:q} --output {output:q} > {log:q} 2>&1"
