"""
Datasets, generated or fetched once, so that no other job needs internet.

INPUT
    a local JSON Lines file, the hub, or reasoning-gym's templates, as the config says
OUTPUT
    results/data/{dataset}/{split}.parquet      one row a record, in the fields of the hub's copy
"""


rule fetch_dataset:
    """One split of a dataset."""
    input:
        local=local_file,
        code=lambda w: code("fetch_dataset", *adapter_of(w)),
    output:
        "results/data/{dataset}/{split}.parquet",
    log:
        "results/logs/data/{dataset}/{split}.log",
    benchmark:
        "results/benchmarks/data/{dataset}/{split}.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=1000,
    params:
        settings=source_of,
    shell:
        "python scripts/fetch_dataset.py --settings {params.settings:q} --split {wildcards.split} "
        "--output {output:q} > {log:q} 2>&1"
