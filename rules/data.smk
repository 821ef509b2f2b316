"""
Datasets, generated or fetched once, so that no other job needs internet.

INPUT
    a local JSON Lines file, the hub, or reasoning-gym's templates, as the config says
OUTPUT
    results/data/{dataset}/{split}.parquet      one row a record, in the fields of the hub's copy
"""


def source_of(wildcards):
    """What of the config one split's records depend on."""
    dataset, split = CONFIG.datasets[wildcards.dataset], wildcards.split
    if split not in CONFIG.splits(wildcards.dataset):
        raise WorkflowError(f"datasets.{wildcards.dataset}: no split {split!r} declared")
    if dataset.kind == "generated":
        own = dataset.model_dump(exclude={"splits", "prompt", "completion"})
        return settings(None, **own, adapter=None, size=dataset.splits[split])
    files = CONFIG.files(wildcards.dataset)
    own = {"fields": dataset.fields, "adapter": files.adapter}
    if path := CONFIG.local_path(wildcards.dataset, split):
        return settings(None, **own, kind="local", path=str(path))
    hub = {key: getattr(files, key) for key in ("repo", "name", "revision", "data_files")}
    return settings(None, **own, kind="hub", **hub, split=files.splits[split])


def local_file(wildcards):
    return [str(path)] if (path := CONFIG.local_path(wildcards.dataset, wildcards.split)) else []


def adapter_of(wildcards):
    adapter = json.loads(source_of(wildcards))["adapter"]
    return [f"data/adapters/{adapter}"] if adapter else []


rule fetch_dataset:
    """One split of a dataset."""
    input:
        local=local_file,
        code=lambda w: code("fetch_dataset", *adapter_of(w)),
    output:
        names.DATA,
    log:
        log_of(names.DATA),
    benchmark:
        benchmark_of(names.DATA)
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=grown(1000),
    params:
        settings=source_of,
    shell:
        "python {input.code[0]:q} --settings {params.settings:q} --split {wildcards.split} "
        "--output {output:q} > {log:q} 2>&1"
