"""Reasoning-aware structural pruning of LLMs, as a DAG of artefacts (docs/architecture.md).

snakemake --cores 8 results/table1.csv                                            the embedded model
snakemake --cores 8 results/table1.csv --configfile config/smollm2-135m.yaml      another experiment
"""

from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/model.smk"
include: "rules/calibrate.smk"
include: "rules/score.smk"
include: "rules/mask.smk"
include: "rules/compact.smk"
include: "rules/evaluate.smk"
include: "rules/recover.smk"
include: "rules/overlap.smk"
include: "rules/tables.smk"
include: "rules/reasoner.smk"


wildcard_constraints:
    model=one_of(CONFIG.models),
    dataset=one_of(CONFIG.datasets),
    calib=one_of(CONFIG.calibrations),
    method=one_of(METHODS),
    task=one_of(CONFIG.tasks),
    split=r"[a-z0-9_-]+",
    sparsity=r"\d{1,2}",
    shard=r"\d+",
    shards=r"\d+",


localrules:
    all,


rule all:
    """What people come for."""
    default_target: True
    input:
        rules.table1.output,
