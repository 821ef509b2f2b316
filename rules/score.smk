"""
Scores: one number per FFN neuron, by one method; and per unit of what else its allocation cuts. A method is data:
methods.{method} in the config; what it reads its plug-ins say (REQUIRES; methods/requirements.py).

INPUT
    results/{model}/calibration/{calib}/                        statistics.parquet, or what the score names instead; and
                                                                attention.parquet or its like, where groups are cut
    …/second_moments/, …                                        for scores that need matrices (`obs`, `leverage`)
    results/{model}/base/manifest.json                          the dense model's weights, for scores that want them
OUTPUT
    results/{model}/scores/{calib}/{method}.parquet             layer, unit, score; of groups, too: structure, parameters.
                                                                Methods share it that differ in `vocabulary` and `export` alone
"""

from pruning.methods import allocation, requirements, scores

SCORE_KEYS = {"score", "options", "normalise", "shuffle"}


def files_of(stage):
    """Tables, and manifests of matrices, that a stage reads of the wildcards' method."""
    return lambda w: list(requirements.files(CONFIG.method(w.method), stage, as_cut(w)).values())


def matrices_of(stage):
    """The directories, so that deleted ones are made again; their manifests say whether they changed."""
    return lambda w: list(map(ancient, requirements.directories(CONFIG.method(w.method), stage, as_cut(w))))


def evidence_of(stage):
    """The files on a command line, by kind."""
    return lambda w: [
        f"--evidence={kind}={path}"
        for kind, path in requirements.files(CONFIG.method(w.method), stage, as_cut(w)).items()
    ]


def structures_of(wildcards):
    return [f"--structure={name}" for name in allocation.structures_of(CONFIG.method(wildcards.method).allocate)]


def package_files(wildcards):
    """Those of an installed package that gives the score; none of a score of our own."""
    return scores.origin(CONFIG.method(wildcards.method).score)[0]


def score_file(wildcards):
    """Our own file of the score, if it is ours."""
    return [] if package_files(wildcards) else [f"methods/scores/{CONFIG.method(wildcards.method).score}"]


def score_settings(wildcards):
    """What of a method its scores are made by, and the package that gives the score, if one does."""
    method = CONFIG.method(wildcards.method)
    return json.dumps(method.model_dump(include=SCORE_KEYS) | scores.origin(method.score)[1], sort_keys=True)


rule score:
    """Scores of all units by one method."""
    input:
        model=names.BASE,
        evidence=files_of("score"),
        matrices=matrices_of("score"),
        code=lambda w: [*code("score", *score_file(w)), *package_files(w)],
    output:
        names.SCORES,
    priority: 1  # a long line of jobs waits for it
    threads: lambda w: threads_of(w) if matrices_of("score")(w) else 1
    resources:
        gpu=lambda w: gpus(w) if matrices_of("score")(w) else 0,
    params:
        evidence=evidence_of("score"),
        structures=structures_of,
        settings=score_settings,
        model=subpath(input.model, parent=True),
    shell:
        on_gpu("--model {params.model:q} {params.structures:q} {params.evidence:q} --output {output:q}")
