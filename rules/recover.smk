"""
LoRA recovery of compact models, by one of `tunings` in the config; rules/evaluate.smk evaluates them.

INPUT
    results/{model}/compact/{calib}/{method}/{sparsity}/            the pruned model
    results/data/{dataset}/{split}.parquet                          tuning text
OUTPUT
    results/{model}/recovered/{calib}/{method}/{sparsity}/{tuning}/     PEFT adapter, training_log.csv, recovery.json
A killed training goes on from its last checkpoint, kept in a hidden folder beside the output.
"""

RECOVERED = "results/{model}/recovered/{calib}/{method}/{sparsity}/{tuning}"
RECOVERY_FILES = ("adapter_model.safetensors", "adapter_config.json", "training_log.csv", "recovery.json")


rule recover:
    """A LoRA adapter for a compact model."""
    input:
        manifest=f"{COMPACT}/manifest.json",
        weights=ancient(f"{COMPACT}/model"),
        data=tuning_data,
        code=code("recover"),
    output:
        [f"{RECOVERED}/{name}" for name in RECOVERY_FILES],
    log:
        "results/logs/{model}/recovered/{calib}/{method}/{sparsity}/{tuning}.log",
    benchmark:
        "results/benchmarks/{model}/recovered/{calib}/{method}/{sparsity}/{tuning}.tsv"
    wildcard_constraints:
        tuning=TUNING,
    conda:
        "../envs/gpu.yaml"
    threads: threads_of
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=tuning_settings,
        output=subpath(output[0], parent=True),
    shell:
        "python scripts/launch.py --gpus {resources.gpu} -- "
        "python scripts/recover.py --settings {params.settings:q} --model {input.weights:q} "
        "--manifest {input.manifest:q} --data {input.data:q} --output {params.output:q} --threads {threads} > {log:q} 2>&1"
