"""Single steps of arithmetic: the facts that a reasoner recalls, without a chain of thought to follow."""

import hashlib
from collections.abc import Iterator
from random import Random

Step = tuple[str, str]  # "12 + 3 =", "15"


def step(rng: Random) -> Step:
    """Operands and result in the sizes that word problems need: small numbers most of the time."""
    high = rng.choice((12, 30, 100, 100, 300, 900))
    operator = rng.choice("+-*/")
    a, b = rng.randint(0, high), rng.randint(0, high)
    if operator == "-":
        a, b = max(a, b), min(a, b)
    elif operator in "*/":
        b = rng.randint(1, max(1, min(99, 2000 // max(a, 1))))
    if operator == "/":
        result, a = a, a * b
    else:
        result = {"+": a + b, "-": a - b, "*": a * b}[operator]
    space = rng.choice((" ", " ", ""))
    return f"{a}{space}{operator}{space}{b} =", str(result)


def questions(split: str, seed: int) -> Iterator[Step]:
    """Endless questions of a split, each after three worked lines that say what to do, with answers.

    A question belongs to one split for ever, by hashing it: 80% train, 10% validation, 10% test. Few questions differ
    in their spaces alone. Worked lines are of any split: some test questions stand in those of training records."""
    rng, seen = Random(f"{split} {seed}"), set()
    while True:
        lines = [step(rng) for _ in range(3)]
        question, answer = step(rng)
        digest = hashlib.sha256(question.replace(" ", "").encode()).digest()[0] % 10
        if question not in seen and {0: "test", 1: "validation"}.get(digest, "train") == split:
            seen.add(question)
            yield "".join(f"{asked} {result}\n" for asked, result in lines) + question, answer
