"""The published benchmarks: where they are on the hub, pinned, and how local copies of them are named.

Every config has them; what no table, calibration or tuning uses is not fetched.
"""

from pruning.config.datasets import HubFiles, LocalFiles, PublishedDataset

# Commits that could not be looked up offline are `main`: pin them before publishing.
PUBLISHED = {
    "gsm8k": PublishedDataset(
        kind="published",
        fields=["question", "answer"],
        prompt="Question: {question}\nAnswer:",
        completion=" {answer}",
        hub=HubFiles(
            repo="openai/gsm8k",
            name="main",
            revision="e53f048856ff4f594e959d75785d2c2d37b678ee",
            splits={"train": "train", "test": "test"},
        ),
        local=LocalFiles(path="gsm8k/{split}.jsonl", splits={"train": "train", "test": "test"}),
    ),
    "aqua": PublishedDataset(
        kind="published",
        fields=["query", "choices", "gold"],
        hub=HubFiles(repo="hails/agieval-aqua-rat", revision="main", splits={"test": "test"}),
        local=LocalFiles(path="aqua/{split}.jsonl", splits={"test": "test"}, adapter="aqua_raw"),
    ),
    "aqua_rat": PublishedDataset(
        kind="published",
        fields=["question", "rationale", "correct"],
        prompt="{question}\nA:",
        completion=" {rationale}\nThe answer is ({correct})",
        hub=HubFiles(
            repo="deepmind/aqua_rat",
            name="raw",
            revision="33301c6a050c96af81f63cad5562cb5363e88971",
            splits={"train": "train[:20000]"},
            adapter="aqua_rationale",
        ),
        local=LocalFiles(path="aqua/{split}.jsonl", splits={"train": "train_flan_cot"}, adapter="aqua_rationale"),
    ),
    "mathqa": PublishedDataset(
        kind="published",
        fields=["Problem", "options", "correct"],
        hub=HubFiles(repo="regisss/math_qa", revision="main", splits={"test": "test"}),
        local=LocalFiles(path="mathqa/{split}.jsonl", splits={"test": "test"}),
    ),
    "arc_easy": PublishedDataset(
        kind="published",
        fields=["id", "question", "choices", "answerKey"],
        hub=HubFiles(
            repo="allenai/ai2_arc",
            name="ARC-Easy",
            revision="210d026faf9955653af8916fad021475a3f00453",
            splits={"test": "test"},
        ),
        local=LocalFiles(path="arc_easy/{split}.jsonl", splits={"test": "test"}, adapter="arc_olmo"),
    ),
    "arc_challenge": PublishedDataset(
        kind="published",
        fields=["id", "question", "choices", "answerKey"],
        hub=HubFiles(
            repo="allenai/ai2_arc",
            name="ARC-Challenge",
            revision="210d026faf9955653af8916fad021475a3f00453",
            splits={"test": "test"},
        ),
        local=LocalFiles(path="arc_challenge/{split}.jsonl", splits={"test": "test"}, adapter="arc_olmo"),
    ),
    "piqa": PublishedDataset(
        kind="published",
        fields=["goal", "sol1", "sol2", "label"],
        hub=HubFiles(
            repo="baber/piqa", revision="142f6d7367fd9877f0fb3b5734ea6a545f54cdd1", splits={"validation": "validation"}
        ),
        local=LocalFiles(path="piqa/{split}.jsonl", splits={"validation": "valid"}),
    ),
    "winogrande": PublishedDataset(
        kind="published",
        fields=["sentence", "option1", "option2", "answer"],
        hub=HubFiles(
            repo="allenai/winogrande",
            name="winogrande_xl",
            revision="01e74176c63542e6b0bcb004dcdea22d94fb67b5",
            splits={"validation": "validation"},
        ),
        local=LocalFiles(path="winogrande/{split}.jsonl", splits={"validation": "dev"}),
    ),
    "wikitext2": PublishedDataset(
        kind="published",
        fields=["text"],
        hub=HubFiles(
            repo="Salesforce/wikitext",
            name="wikitext-2-raw-v1",
            revision="b08601e04326c79dfdd32d625aee71d232d685c3",
            splits={"train": "train", "validation": "validation", "test": "test"},
        ),
        local=LocalFiles(
            path="wikitext2/{split}.jsonl", splits={"train": "train_part", "validation": "valid", "test": "test"}
        ),
    ),
    "c4": PublishedDataset(
        kind="published",
        fields=["text"],
        hub=HubFiles(
            repo="allenai/c4",
            name="en",
            revision="1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
            splits={"validation": "validation[:1100]"},
            data_files={"validation": "en/c4-validation.00000-of-00008.json.gz"},
        ),
        local=LocalFiles(path="c4/{split}.jsonl", splits={"validation": "sample"}),
    ),
}
