"""
Datasets, generated or fetched once, so that no other job needs internet.

INPUT
    a local JSON Lines file, the hub, or reasoning-gym's templates, as the config says
OUTPUT
    results/data/{dataset}/{split}.parquet      one row a record, in the fields of the hub's copy
"""


def source_of(wildcards):
    """A split's settings: what of the dataset's config this split's records depend on."""
    dataset = CONFIG.datasets[wildcards.dataset]
    own = dataset.splits.get(wildcards.split)
    if own is None:
        raise WorkflowError(f"datasets.{wildcards.dataset}.splits: no split {wildcards.split!r} declared")
    skip = ("splits", "prompt", "completion")
    if dataset.kind == "generated":
        return settings(dataset, exclude=skip, adapter=None, size=own)
    if dataset.kind == "local":
        return settings(dataset, exclude=skip, path=dataset.path.replace("{split}", own))
    return settings(dataset, exclude=skip, split=own)


def local_file(wildcards):
    return [path] if (path := json.loads(source_of(wildcards)).get("path")) else []


def adapter_of(wildcards):
    adapter = getattr(CONFIG.datasets[wildcards.dataset], "adapter", None)
    return [f"adapters/{adapter}"] if adapter else []


rule fetch_dataset:
    """One split of a dataset."""
    input:
        local=local_file,
        code=lambda w: code("fetch_dataset", *adapter_of(w)),
    output:
        "results/data/{dataset}/{split}.parquet",
    params:
        settings=source_of,
    log:
        "results/logs/data/{dataset}/{split}.log",
    benchmark:
        "results/benchmarks/data/{dataset}/{split}.tsv"
    resources:
        mem_mb=1000,
    shell:
        "python scripts/fetch_dataset.py --settings {params.settings:q} --split {wildcards.split} "
        "--output {output:q} > {log:q} 2>&1"
