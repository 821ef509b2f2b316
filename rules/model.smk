"""
The dense model, copied, converted or downloaded once, pinned.

INPUT
    a model directory, a GGUF file or a hub repository, as the config says
OUTPUT
    results/{model}/base/manifest.json      hashes of the model's files, which lie beside it
"""


rule fetch_model:
    """The dense model."""
    input:
        local=model_files,
        code=code("fetch_model"),
    output:
        "results/{model}/base/manifest.json",
    log:
        "results/logs/{model}/base.log",
    benchmark:
        "results/benchmarks/{model}/base.tsv"
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory_mb,
    params:
        settings=lambda w: settings(CONFIG.models[w.model].source),
    shell:
        "python scripts/fetch_model.py --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"
