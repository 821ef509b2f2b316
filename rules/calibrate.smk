"""
One calibration pass collects every statistic of every method; shards are separate jobs that merge exactly.

INPUT
    results/{model}/base/manifest.json                          the dense model
    results/data/{dataset}/{split}.parquet                      calibration text
OUTPUT
    results/{model}/calibration/{calib}/statistics.parquet      one row a neuron (scripts/pruning/calibration/columns.py)
    results/{model}/calibration/{calib}/layers.parquet          one row a layer
    results/{model}/calibration/{calib}/token_classes.parquet   one row a neuron and token class (digits, operators, …)
    results/{model}/calibration/{calib}/activations.parquet     sampled tokens x neurons of the analysed layer
    results/{model}/calibration/{calib}/second_moments/         sum of a a^T of down_proj's inputs, for ridge compensation
    results/{model}/calibration/{calib}/parameter_taylor.parquet    one row a neuron, for the score parameter_taylor
"""

CALIBRATION = "results/{model}/calibration/{calib}"
SHARD = f"{CALIBRATION}/shards/{{shard}}-of-{{shards}}"
CALIBRATION_FILES = ("statistics", "layers", "token_classes", "activations")


rule calibrate_shard:
    """Statistics of one shard's micro-batches."""
    input:
        model="results/{model}/base/manifest.json",
        data=calibration_data,
        code=code("calibrate"),
    output:
        [f"{SHARD}/{name}.parquet" for name in CALIBRATION_FILES],
    log:
        "results/logs/{model}/calibration/{calib}/{shard}-of-{shards}.log",
    benchmark:
        "results/benchmarks/{model}/calibration/{calib}/{shard}-of-{shards}.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: threads_of
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=shard_settings,
        model=subpath(input.model, parent=True),
        output=subpath(output[0], parent=True),
    shell:
        "python scripts/launch.py --gpus {resources.gpu} -- "
        "python scripts/calibrate.py --settings {params.settings:q} --model {params.model:q} "
        "--data {input.data:q} --shard {wildcards.shard} --output {params.output:q} --threads {threads} > {log:q} 2>&1"


rule merge_calibration:
    """The calibration's statistics over all shards."""
    input:
        shards=lambda w: [f"{shard}/{name}.parquet" for shard in shards_of(w) for name in CALIBRATION_FILES],
        code=code("merge_calibration"),
    output:
        [f"{CALIBRATION}/{name}.parquet" for name in CALIBRATION_FILES],
    log:
        "results/logs/{model}/calibration/{calib}/merge.log",
    benchmark:
        "results/benchmarks/{model}/calibration/{calib}/merge.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory_mb,
    params:
        settings=lambda w: settings(CONFIG.calibrations[w.calib]),
        shards=lambda w: [f"--shard={shard}" for shard in shards_of(w)],
        output=subpath(output[0], parent=True),
    shell:
        "python scripts/merge_calibration.py --settings {params.settings:q} {params.shards:q} "
        "--output {params.output:q} > {log:q} 2>&1"


rule second_moments:
    """Second moments of every layer's down_proj inputs, a layer at a time; deleted after use unless kept."""
    input:
        model="results/{model}/base/manifest.json",
        data=calibration_data,
        code=code("second_moments"),
    output:
        manifest=f"{CALIBRATION}/second_moments.json",
        layers=kept_or_temp(directory(f"{CALIBRATION}/second_moments"), CONFIG.storage.second_moments),
    log:
        "results/logs/{model}/calibration/{calib}/second_moments.log",
    benchmark:
        "results/benchmarks/{model}/calibration/{calib}/second_moments.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: threads_of
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=moments_settings,
        model=subpath(input.model, parent=True),
    shell:
        "python scripts/launch.py --gpus {resources.gpu} -- "
        "python scripts/second_moments.py --settings {params.settings:q} --model {params.model:q} --data {input.data:q} "
        "--output {output.layers:q} --manifest {output.manifest:q} --threads {threads} > {log:q} 2>&1"


rule parameter_gradients:
    """Gradients of all FFN weights over the whole set, summed, times the weights: one number a neuron."""
    input:
        model="results/{model}/base/manifest.json",
        data=calibration_data,
        code=code("parameter_gradients"),
    output:
        f"{CALIBRATION}/parameter_taylor.parquet",
    log:
        "results/logs/{model}/calibration/{calib}/parameter_gradients.log",
    benchmark:
        "results/benchmarks/{model}/calibration/{calib}/parameter_gradients.tsv"
    conda:
        "../envs/gpu.yaml"
    threads: threads_of
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=gradients_settings,
        model=subpath(input.model, parent=True),
    shell:
        "python scripts/launch.py --gpus {resources.gpu} -- "
        "python scripts/parameter_gradients.py --settings {params.settings:q} --model {params.model:q} "
        "--data {input.data:q} --output {output:q} --memory-mb {resources.mem_mb} --threads {threads} > {log:q} 2>&1"
