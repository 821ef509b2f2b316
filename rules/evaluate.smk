"""
Evaluation of the dense model, of every compact one and of every recovered one, item by item.

`variant` is `dense`, `{calib}/{method}/{sparsity}`, or that and `/{tuning}`. A task is either lm-eval's (config/tasks/{task}.yaml) or a
windowed perplexity (tasks.{task} in the config).

INPUT
    manifest.json and files of the variant's model
    results/data/…                                          the data files that the task names
OUTPUT
    results/{model}/eval/{variant}/{task}.json              the whole result
    results/{model}/eval/{variant}/{task}.samples.parquet   one row an item and metric
Answers already given are kept in a hidden file beside the outputs: a killed evaluation goes on where it stopped.
"""

EVALUATION = "results/{model}/eval/{variant}/{task}"
VARIANT = rf"dense|({one_of(CONFIG.calibrations)})/({one_of(METHODS)})/\d{{1,2}}(/({TUNING}))?"


rule evaluate:
    """One model on one of lm-eval's tasks."""
    input:
        manifest=manifest_of,
        weights=weights_of,
        adapter=adapter_files,
        definition=definition,
        data=task_data,
        code=code("evaluate"),
    output:
        result=f"{EVALUATION}.json",
        samples=f"{EVALUATION}.samples.parquet",
    log:
        "results/logs/{model}/eval/{variant}/{task}.log",
    benchmark:
        "results/benchmarks/{model}/eval/{variant}/{task}.tsv"
    wildcard_constraints:
        variant=VARIANT,
        task=tasks_of("lm_eval"),
    conda:
        "../envs/gpu.yaml"
    threads: threads_of
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=task_settings,
        model=model_of,
        adapter=adapter_option,
    shell:
        "python scripts/launch.py --gpus {resources.gpu} -- "
        "python scripts/evaluate.py --settings {params.settings:q} --model {params.model:q} {params.adapter} "
        "--manifest {input.manifest:q} --definition {input.definition:q} --output {output.result:q} "
        "--samples {output.samples:q} --threads {threads} > {log:q} 2>&1"


rule perplexity:
    """Windowed perplexity of one model on one text."""
    input:
        manifest=manifest_of,
        weights=weights_of,
        adapter=adapter_files,
        data=lambda w: "results/data/{t.dataset}/{t.split}.parquet".format(t=CONFIG.tasks[w.task]),
        code=code("perplexity"),
    output:
        result=f"{EVALUATION}.json",
        samples=f"{EVALUATION}.samples.parquet",
    log:
        "results/logs/{model}/eval/{variant}/{task}.log",
    benchmark:
        "results/benchmarks/{model}/eval/{variant}/{task}.tsv"
    wildcard_constraints:
        variant=VARIANT,
        task=tasks_of("perplexity"),
    conda:
        "../envs/gpu.yaml"
    threads: threads_of
    resources:
        gpu=gpus,
        mem_mb=memory_mb,
    params:
        settings=task_settings,
        model=model_of,
        adapter=adapter_option,
    shell:
        "python scripts/launch.py --gpus {resources.gpu} -- "
        "python scripts/perplexity.py --settings {params.settings:q} --model {params.model:q} {params.adapter} "
        "--data {input.data:q} --output {output.result:q} --samples {output.samples:q} --threads {threads} > {log:q} 2>&1"
