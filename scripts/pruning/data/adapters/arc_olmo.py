"""ARC as OLMo ships it (`query`, `choices`, `gold`) to the hub's allenai/ai2_arc fields."""

LETTERS = "ABCDEFGH"


def adapt(record: dict) -> dict:
    question = record["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    labels = list(LETTERS[: len(record["choices"])])
    if record["gold"] < 0:  # an index from the end for Python
        raise ValueError(f"gold {record['gold']}")
    choices = {"text": list(record["choices"]), "label": labels}
    return {"id": record["id"], "question": question, "choices": choices, "answerKey": labels[record["gold"]]}
