"""
Compact models: physically smaller, loadable; `storage.compact: temp` deletes them after their last evaluation.

INPUT
    results/{model}/base/manifest.json                              the dense model
    results/{model}/masks/{calib}/{method}/{sparsity}.parquet
    results/{model}/calibration/{calib}/statistics.parquet          only where the method compensates by a bias
    results/{model}/calibration/{calib}/second_moments.json         only where it compensates by ridge regression
OUTPUT
    results/{model}/compact/{calib}/{method}/{sparsity}/model/              a Hugging Face model directory
    results/{model}/compact/{calib}/{method}/{sparsity}/manifest.json       widths, parameters, hashes of the model's files
"""

COMPACT = "results/{model}/compact/{calib}/{method}/{sparsity}"


rule compact:
    """A physically smaller model."""
    input:
        model="results/{model}/base/manifest.json",
        mask="results/{model}/masks/{calib}/{method}/{sparsity}.parquet",
        evidence=evidence_of,
        moments=moments_of,
        code=lambda w: code("compact", *compensation_of(w)),
    output:
        manifest=f"{COMPACT}/manifest.json",
        weights=kept_or_temp(directory(f"{COMPACT}/model"), CONFIG.storage.compact),
    log:
        "results/logs/{model}/compact/{calib}/{method}/{sparsity}.log",
    benchmark:
        "results/benchmarks/{model}/compact/{calib}/{method}/{sparsity}.tsv"
    conda:
        "../envs/cpu.yaml"
    threads: compact_threads
    resources:
        mem_mb=memory_mb,
    params:
        settings=lambda w: json.dumps(CONFIG.method(w.method).model_dump(include={"compensate", "export"})),
        model=subpath(input.model, parent=True),
        evidence=compensation_options,
    shell:
        "python scripts/compact.py --settings {params.settings:q} --model {params.model:q} --mask {input.mask:q} "
        "{params.evidence} --output {output.weights:q} --manifest {output.manifest:q} > {log:q} 2>&1"
