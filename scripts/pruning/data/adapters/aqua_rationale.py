"""AQuA-RAT's own records to tuning text: the question as AGIEval renders it, the rationale and the letter."""


def adapt(record: dict) -> dict:
    choices = " ".join(f"({option[0]}){option[2:]}" for option in record["options"])
    question = f"Q: {record['question']} Answer Choices: {choices}"
    return {"question": question, "rationale": record["rationale"], "correct": record["correct"]}
