"""
Datasets, generated or fetched once, so that no other job needs internet; and texts that a model wrote itself.

INPUT
    a local JSON Lines file, the hub, or reasoning-gym's templates, as the config says
    results/{model}/eval/dense/{task}.samples.parquet       for the model's own answers
    results/{model}/eval/{calib}/{method}/{sparsity}/{task}.samples.parquet     for a pruned model's
OUTPUT
    results/data/{dataset}/{split}.parquet      one row per record, in the fields of the hub's copy
    results/{model}/answers/{task}.parquet      one row per question that the dense model answered right: item, prompt, completion
    results/{model}/answers/{calib}/{method}/{sparsity}/{task}.parquet      likewise, all answers of a pruned model
"""

# Settings of a text that `text_file` and `text_format` say.
WHERE = ("dataset", "split", "answers", "answered_by", "completion")


def text_file(user, model):
    """The records that a calibration or a tuning is made of."""
    if user.answers:
        return names.ANSWERS.format(model=model, task=user.answers)
    return names.DATA.format(dataset=user.dataset, split=user.split)


def text_format(user):
    """How a record becomes text: templates of the prompt and of the completion."""
    if user.answers:
        return {"prompt": "{prompt}", "completion": "{completion}"}
    dataset = CONFIG.datasets[user.dataset]
    own = getattr(user, "completion", None)  # a calibration's
    return {"prompt": dataset.prompt, "completion": dataset.completion if own is None else own}


def source_of(wildcards):
    """What of the config one split's records depend on."""
    dataset, split = CONFIG.datasets[wildcards.dataset], wildcards.split
    if split not in CONFIG.splits(wildcards.dataset):
        raise WorkflowError(f"datasets.{wildcards.dataset}: no split {split!r} declared")
    if dataset.kind == "generated":
        own = dataset.model_dump(exclude={"splits", "prompt", "completion"})
        return settings(None, **own, adapter=None, size=dataset.splits[split])
    files = CONFIG.files(wildcards.dataset)
    own = {"fields": dataset.fields, "adapter": files.adapter}
    if path := CONFIG.local_path(wildcards.dataset, split):
        part = {"part": part} if (part := files.place(split)[1]) else {}
        return settings(None, **own, kind="local", path=str(path), **part)
    hub = {key: getattr(files, key) for key in ("repo", "name", "revision", "data_files")}
    return settings(None, **own, kind="hub", **hub, split=files.splits[split])


def local_file(wildcards):
    return [str(path)] if (path := CONFIG.local_path(wildcards.dataset, wildcards.split)) else []


def adapter_of(wildcards):
    adapter = json.loads(source_of(wildcards))["adapter"]
    return [f"data/adapters/{adapter}"] if adapter else []


rule fetch_dataset:
    """One split of a dataset."""
    input:
        local=local_file,
        code=lambda w: code("fetch_dataset", *adapter_of(w)),
    output:
        names.DATA,
    params:
        settings=source_of,
    shell:
        on_cpu("--split {wildcards.split} --output {output:q}")


ANSWERED = {  # rule: (whose answers, file, which of them)
    "own_answers": (names.DENSE, names.ANSWERS, {}),
    "answers_of_pruned": (Variant("{calib}", "{method}", "{sparsity}"), names.ANSWERS_OF_PRUNED, {"which": "all"}),
}

for name, (variant, path, which) in ANSWERED.items():

    rule:
        """What a model itself answered."""
        name:
            name
        input:
            samples=variant.samples("{model}", "{task}"),
            code=code("own_answers"),
        output:
            path,
        params:
            settings=lambda w, which=which: settings(None, task=w.task, metric=CONFIG.tasks[w.task].metrics[0], **which),
        shell:
            on_cpu("--samples {input.samples:q} --output {output:q}")
