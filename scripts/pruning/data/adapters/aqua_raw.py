"""AQuA-RAT's own records to AGIEval's rendered ones (hub: hails/agieval-aqua-rat), which lm-eval reads."""


def adapt(record: dict) -> dict:
    choices = [f"({option[0]}){option[2:]}" for option in record["options"]]
    query = f"Q: {record['question']} Answer Choices: {' '.join(choices)}\nA: Among A through E, the answer is"
    return {"query": query, "choices": choices, "gold": [list("ABCDE").index(record["correct"])]}
