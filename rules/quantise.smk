"""
GGUF files of variants, to be evaluated as what they hold, weighed, and timed in llama.cpp (rules/timing.smk). To take one away: rules/export.smk.

INPUT
    what evaluation loads of the variant                            rules/evaluate.smk: manifest, weights, mask, adapter
OUTPUT
    results/{model}/quantised/{variant}/{type}.gguf                 kept with `storage.gguf: keep` alone
    results/{model}/quantised/{variant}/{type}.json                 type, bytes, parameters, widths, tensors of each type
"""


def file_settings(wildcards):
    own = CONFIG.models[wildcards.model]
    return settings(None, name=f"{wildcards.model} {wildcards.variant}", type=wildcards.type, dtype=own.dtype)


rule quantise:
    """One variant as a GGUF file."""
    input:
        unpack(parts_of),
        code=lambda w: code("to_gguf", *parts_code(w)),
    output:
        file=kept_or_temp(f"{names.QUANTISED}.gguf", CONFIG.storage.gguf),
        record=f"{names.QUANTISED}.json",
    wildcard_constraints:
        variant=rf"dense|{PRUNED}",
        type=one_of(gguf.BLOCK),
    threads: threads_of
    resources:
        mem_mb=memory_mb,
    params:
        settings=file_settings,
        parts=lambda w: json.dumps(parts_given(w)),
    shell:
        on_cpu("--variant {params.parts:q} --output {output.file:q} --threads {threads}")
