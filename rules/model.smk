"""
The dense model, copied, converted or downloaded once, pinned.

INPUT
    a model directory, a GGUF file, a hub repository, or a compact model to be pruned further, as the config says
OUTPUT
    results/{model}/base/manifest.json      hashes of the model's files, which lie beside it
"""


def model_files(wildcards):
    """Files outside packages that the dense model is made from."""
    source = CONFIG.models[wildcards.model].source
    if source.kind == "pruned":
        return [source.variant.manifest(source.model), *source.variant.adapter_files(source.model)]
    if source.kind == "gguf":
        return [path for package, path in sources.locations(source.model_dump()) if not package]
    patterns = sources.FILES if source.kind == "local" else ()
    return sorted({str(file) for pattern in patterns for file in Path(source.path).glob(pattern)})


def pruned_weights(wildcards):
    """The directory of a compact model, so that a deleted one is made again; its manifest says whether it changed."""
    source = CONFIG.models[wildcards.model].source
    return ancient(source.variant.weights(source.model)) if source.kind == "pruned" else []


def pruned_options(wildcards, input):
    source = CONFIG.models[wildcards.model].source
    if source.kind != "pruned":
        return []
    folder = source.variant.adapter(source.model)
    options = [f"--pruned={input.pruned}", f"--pruned-manifest={source.variant.manifest(source.model)}"]
    return [*options, *([f"--adapter={folder}"] if folder else [])]


rule fetch_model:
    """The dense model."""
    input:
        local=model_files,
        pruned=pruned_weights,
        code=lambda w: code(
            "fetch_model", *(["models/pruned"] if CONFIG.models[w.model].source.kind == "pruned" else [])
        ),
    output:
        names.BASE,
    resources:
        mem_mb=memory_mb,
    params:
        settings=lambda w: settings(CONFIG.models[w.model].source),
        pruned=pruned_options,
    shell:
        on_cpu("{params.pruned:q} --output {output:q}")
