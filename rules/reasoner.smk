"""
The embedded models' training: targets of their own (`make reasoner`, `make mixture`), never part of a table.

`make promote-reasoner` and `make promote-mixture` copy a finished one to resources/, which is only ever an input.

INPUT
    resources/tiny-reasoner/        the embedded model, of which the mixture of experts is made
OUTPUT
    results/reasoner/               model, tokenizer, README.md (model card), recipe.json, training_log.csv
    results/mixture/                the same of the mixture
"""

if CONFIG.reasoner:

    rule train_reasoner:
        """Train the tiny reasoner from scratch."""
        input:
            code=code("train_reasoner"),
        output:
            directory(names.REASONER),
        threads: 8
        resources:
            mem_mb=grown(4000),
        params:
            settings=settings(CONFIG.reasoner, exclude=["mixture"]),
            dense=[],
        shell:
            on_cpu("{params.dense:q} --output {output:q} --threads {threads}")


if CONFIG.reasoner and CONFIG.reasoner.mixture:

    use rule train_reasoner as train_mixture with:
        input:
            dense=f"{names.own(names.EMBEDDED)}/model.safetensors",
            code=code("train_reasoner"),
        output:
            directory(names.MIXTURE),
        params:
            settings=settings(CONFIG.reasoner),
            dense=f"--dense={names.own(names.EMBEDDED)}",
