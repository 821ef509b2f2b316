"""Reasoning-aware structural pruning of LLMs, as a DAG of artefacts (docs/architecture.md).

snakemake --cores 8 paper                                                         every table and figure
snakemake --cores 8 results/table1.csv                                            the embedded model's Table 1
snakemake --cores 8 results/table1.csv --configfile config/smollm2-135m.yaml      another experiment
"""

from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/model.smk"
include: "rules/calibrate.smk"
include: "rules/score.smk"
include: "rules/mask.smk"
include: "rules/compact.smk"
include: "rules/evaluate.smk"
include: "rules/recover.smk"
include: "rules/analyse.smk"
include: "rules/latency.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/paper.smk"
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
    paper,


rule all:
    """What people come for."""
    default_target: True
    input:
        "results/table1.csv",
