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

VARIANT = rf"dense|({one_of(CONFIG.calibrations)})/({METHOD})/\d{{1,2}}(/({one_of(CONFIG.tunings)}))?"


def variant_of(wildcards):
    return Variant.parse(wildcards.variant)


def manifest_of(wildcards):
    return variant_of(wildcards).manifest(wildcards.model)


def model_of(wildcards):
    return variant_of(wildcards).weights(wildcards.model)


def weights_of(wildcards):
    """The compact model's directory, so that a deleted one is made again; the manifest says whether it changed."""
    return [] if variant_of(wildcards) == names.DENSE else ancient(model_of(wildcards))


def adapter_files(wildcards):
    """The LoRA adapter of a recovered variant."""
    folder = variant_of(wildcards).adapter(wildcards.model)
    return [f"{folder}/{name}" for name in ("adapter_model.safetensors", "adapter_config.json")] if folder else []


def adapter_option(wildcards):
    return [f"--adapter={folder}"] if (folder := variant_of(wildcards).adapter(wildcards.model)) else []


def tasks_of(kind):
    return one_of(name for name, task in CONFIG.tasks.items() if task.kind == kind)


def definition(wildcards):
    return str(CONFIG.definition(wildcards.task))


def task_settings(wildcards):
    dtype = CONFIG.models[wildcards.model].dtype
    return settings(CONFIG.tasks[wildcards.task], exclude=["title", "chance"], dtype=dtype)


rule evaluate:
    """One model on one of lm-eval's tasks."""
    input:
        manifest=manifest_of,
        weights=weights_of,
        adapter=adapter_files,
        definition=definition,
        data=lambda w: preflight.data_files(Path(definition(w))),
        code=code("evaluate"),
        launch=LAUNCH,
    output:
        result=f"{names.EVALUATION}.json",
        samples=names.SAMPLES,
    log:
        log_of(names.EVALUATION),
    benchmark:
        benchmark_of(names.EVALUATION)
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
        "python {input.launch:q} --gpus {resources.gpu} -- "
        "python {input.code[0]:q} --settings {params.settings:q} --model {params.model:q} {params.adapter:q} "
        "--manifest {input.manifest:q} --definition {input.definition:q} --output {output.result:q} "
        "--samples {output.samples:q} --threads {threads} > {log:q} 2>&1"


rule perplexity:
    """Windowed perplexity of one model on one text."""
    input:
        manifest=manifest_of,
        weights=weights_of,
        adapter=adapter_files,
        data=lambda w: names.DATA.format(dataset=CONFIG.tasks[w.task].dataset, split=CONFIG.tasks[w.task].split),
        code=code("perplexity"),
        launch=LAUNCH,
    output:
        result=f"{names.EVALUATION}.json",
        samples=names.SAMPLES,
    log:
        log_of(names.EVALUATION),
    benchmark:
        benchmark_of(names.EVALUATION)
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
        "python {input.launch:q} --gpus {resources.gpu} -- "
        "python {input.code[0]:q} --settings {params.settings:q} --model {params.model:q} {params.adapter:q} "
        "--data {input.data:q} --output {output.result:q} --samples {output.samples:q} --threads {threads} > {log:q} 2>&1"
