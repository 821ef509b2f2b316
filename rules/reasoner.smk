"""
The embedded model's training: a target of its own (`make reasoner`), never part of a table.

`make promote-reasoner` copies a finished one to resources/, which is only ever an input.

OUTPUT
    results/reasoner/       model, tokenizer, README.md (model card), recipe.json, training_log.csv
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
            settings=settings(CONFIG.reasoner),
        shell:
            on_cpu("--output {output:q} --threads {threads}")
