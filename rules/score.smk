"""
Scores: one number a neuron, by one method. A method is data: methods.{method} in the config.

INPUT
    results/{model}/calibration/{calib}/statistics.parquet          or, for the score parameter_taylor,
    results/{model}/calibration/{calib}/parameter_taylor.parquet, or, for the score rounds,
    results/{model}/calibration/{calib}/rounds.parquet
    results/{model}/base/manifest.json                          the dense model's weights, for scores that want them
    results/{model}/calibration/{calib}/second_moments/         only for scores that need them (`obs`, `leverage`)
    results/{model}/calibration/{calib}/output_gradients/       only for `obs`
    results/{model}/calibration/{calib}/attention.parquet       only where the method's allocation cuts groups (`joint`),
                                                                or, as the score says in its own file (GROUPS),
    results/{model}/calibration/{calib}/attention_second_moments/, attention_output_gradients/,
                                                                attention_parameter_taylor.parquet
OUTPUT
    results/{model}/scores/{calib}/{method}.parquet             layer, unit, score; of groups, too: structure, parameters
"""

from pruning.methods import allocation, scores

SCORE_KEYS = {"score", "options", "normalise", "shuffle"}


def statistics_of(wildcards):
    """The calibration result that the method's score is made of."""
    kind = scores.statistics_of(CONFIG.method(wildcards.method).score)
    return getattr(names, kind.upper()).format(**wildcards)


def ingredients_of(wildcards):
    """What the method's score reads as well, by kind; of attention where the allocation cuts key-value groups."""
    method = CONFIG.method(wildcards.method)
    kinds = [*scores.needs_of(method.score)]
    kinds += scores.groups_by(method.score) if allocation.cuts_groups(method.allocate) else []
    return {kind: getattr(names, kind.upper()).format(**wildcards) for kind in kinds}


def matrices_of(wildcards):
    """Those that are directories of a file a layer."""
    return {kind: path for kind, path in ingredients_of(wildcards).items() if not path.endswith(".parquet")}


def attention_of(wildcards):
    """Statistics of attention, if it reads them."""
    return [path for path in ingredients_of(wildcards).values() if path.endswith(".parquet")]


rule score:
    """Scores of all FFN neurons by one method."""
    input:
        statistics=statistics_of,
        attention=attention_of,
        model=names.BASE,
        manifests=lambda w: [f"{path}.json" for path in matrices_of(w).values()],
        matrices=lambda w: [ancient(path) for path in matrices_of(w).values()],
        code=lambda w: code("score", f"methods/scores/{CONFIG.method(w.method).score}"),
        launch=LAUNCH,
    output:
        names.SCORES,
    log:
        log_of(names.SCORES),
    benchmark:
        benchmark_of(names.SCORES)
    conda:
        "../envs/gpu.yaml"
    threads: lambda w: threads_of(w) if matrices_of(w) else 1
    resources:
        gpu=lambda w: gpus(w) if matrices_of(w) else 0,
        mem_mb=memory_mb,
    params:
        evidence=lambda w: [f"--evidence={kind}={path}.json" for kind, path in matrices_of(w).items()],
        attention=lambda w, input: [f"--attention={path}" for path in input.attention],
        settings=lambda w: json.dumps(CONFIG.method(w.method).model_dump(include=SCORE_KEYS), sort_keys=True),
        model=subpath(input.model, parent=True),
    shell:
        "python {input.launch:q} --gpus {resources.gpu} -- "
        "python {input.code[0]:q} --settings {params.settings:q} --model {params.model:q} "
        "--statistics {input.statistics:q} {params.evidence:q} {params.attention:q} --output {output:q} > {log:q} 2>&1"
