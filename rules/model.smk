"""
The dense model, copied, converted or downloaded once, pinned.

INPUT
    a model directory, a GGUF file or a hub repository, as the config says
OUTPUT
    results/{model}/base/manifest.json      hashes of the model's files, which lie beside it
"""


def model_files(wildcards):
    """Files outside packages that the dense model is made from."""
    source = CONFIG.models[wildcards.model].source
    if source.kind == "gguf":
        return [path for package, path in sources.locations(source.model_dump()) if not package]
    patterns = sources.FILES if source.kind == "local" else ()
    return sorted({str(file) for pattern in patterns for file in Path(source.path).glob(pattern)})


rule fetch_model:
    """The dense model."""
    input:
        local=model_files,
        code=code("fetch_model"),
    output:
        names.BASE,
    log:
        log_of(names.BASE),
    benchmark:
        benchmark_of(names.BASE)
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory_mb,
    params:
        settings=lambda w: settings(CONFIG.models[w.model].source),
    shell:
        "python {input.code[0]:q} --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"
