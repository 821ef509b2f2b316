"""Reasoning-aware structural pruning of LLMs, as a DAG of artefacts (docs/architecture.md).

snakemake --cores 8 paper                   every table and figure; one of them: results/table1.csv
"""

import os

HOME = workflow.current_basedir.get_path_or_uri(secret_free=True)  # where this file lies, also as a module of another


configfile: os.path.relpath(os.path.join(HOME, "config/config.yaml"))


report: "report/workflow.rst"


include: "rules/common.smk"
include: "rules/stages.smk"
include: "rules/start.smk"
include: "rules/data.smk"
include: "rules/model.smk"
include: "rules/calibrate.smk"
include: "rules/score.smk"
include: "rules/mask.smk"
include: "rules/refit.smk"
include: "rules/compact.smk"
include: "rules/evaluate.smk"
include: "rules/recover.smk"
include: "rules/export.smk"
include: "rules/paper/analyse.smk"
include: "rules/timing.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/pages.smk"
include: "rules/reasoner.smk"


for path in CONFIG.custom_rules:

    include: os.path.abspath(path)


include: "rules/lineage.smk"


localrules:  # on the machine where snakemake runs: of a cluster only that one may have internet
    all,
    paper,
    fetch_dataset,
    fetch_model,


rule all:
    """What people come for."""
    default_target: True
    input:
        f"{PLACES.folder}/table1.csv",
