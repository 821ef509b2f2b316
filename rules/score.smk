"""
Scores: one number a neuron, by one method. A method is data: methods.{method} in the config.

INPUT
    results/{model}/calibration/{calib}/statistics.parquet          or, for the score parameter_taylor,
    results/{model}/calibration/{calib}/parameter_taylor.parquet
    results/{model}/base/manifest.json                          the dense model's weights, for scores that want them
OUTPUT
    results/{model}/scores/{calib}/{method}.parquet             layer, unit, score
"""

SCORE_KEYS = {"score", "options", "normalise", "shuffle"}
STATISTICS = {"parameter_taylor": names.PARAMETER_TAYLOR}


def statistics_of(wildcards):
    """The calibration result that the method's score is made of."""
    return STATISTICS.get(CONFIG.method(wildcards.method).score, names.STATISTICS).format(**wildcards)


rule score:
    """Scores of all FFN neurons by one method."""
    input:
        statistics=statistics_of,
        model=names.BASE,
        code=lambda w: code("score", f"methods/scores/{CONFIG.method(w.method).score}"),
    output:
        names.SCORES,
    log:
        log_of(names.SCORES),
    benchmark:
        benchmark_of(names.SCORES)
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=memory_mb,
    params:
        settings=lambda w: json.dumps(CONFIG.method(w.method).model_dump(include=SCORE_KEYS), sort_keys=True),
        model=subpath(input.model, parent=True),
    shell:
        "python {input.code[0]:q} --settings {params.settings:q} --model {params.model:q} "
        "--statistics {input.statistics:q} --output {output:q} > {log:q} 2>&1"
