"""Worked math word problems from reasoning-gym's `gsm_symbolic`, split without leakage.

reasoning-gym ships the templates of GSM-Symbolic (Mirzadeh et al., 2024, arXiv 2410.05229):
each draws names and numbers at random and prints a question and a worked solution that ends
in `#### N`. Two problems with the same template and numbers but other names are *twins*: a
model that saw one recalls the other. So the splits are drawn by (template, number tuple): every
tuple belongs to one split for ever, whatever the seed, by hashing it.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from random import Random

NUMBER = re.compile(r"\d+(?:\.\d+)?")
LETTERS = "ABCDE"


@dataclass(frozen=True)
class Problem:
    """One generated problem; `answer` is the worked solution, ending in `#### N`, as in GSM8K."""

    template: int
    question: str
    answer: str

    @property
    def numbers(self) -> tuple[str, ...]:
        """All numbers of the worked solution, in order; equal tuples are the same computation."""
        return tuple(NUMBER.findall(self.answer))

    @property
    def final(self) -> str:
        return self.answer.rsplit("####", 1)[1].strip()

    @property
    def split(self) -> str:
        """80% train, 10% validation, 10% test of each template's number tuples."""
        digest = hashlib.sha256(repr((self.template, self.numbers)).encode()).digest()
        return {0: "test", 1: "validation"}.get(digest[0] % 10, "train")


def generate(template: int, rng: Random, difficulty: float = 1.0) -> Problem:
    """Draw one problem of a gsm_symbolic template (reasoning-gym's template number and difficulty).

    Raises KeyError if reasoning-gym has no such template."""
    item = _generators()[template](rng, difficulty)
    return Problem(template, item["question"].strip(), item["metadata"]["answer_cot"].strip())


def stream(split: str, templates: Sequence[int], rng: Random) -> Iterator[Problem]:
    """Endless problems of a split, templates drawn uniformly."""
    while True:
        problem = generate(rng.choice(templates), rng)
        if problem.split == split:
            yield problem


def sample(split: str | None, templates: Sequence[int], size: int, seed: int, difficulty: float = 1.0) -> list[Problem]:
    """`size` problems of a split (None: of any) with distinct number tuples, balanced over the templates.

    Raises ValueError if the templates do not hold that many distinct tuples."""
    rng, seen, problems, misses = Random(seed), set(), [], 0
    for template in cycle(templates):
        for _ in range(200):
            problem = generate(template, rng, difficulty)
            key = (template, problem.numbers)
            if split in (None, problem.split) and key not in seen:
                seen.add(key)
                problems.append(problem)
                misses = 0
                break
        else:
            misses += 1
        if len(problems) == size:
            return problems
        if misses > 3 * len(templates):
            raise ValueError(
                f"gsm_symbolic templates {list(templates)} hold only about {len(problems)} distinct "
                f"{f'{split} ' if split else ''}problems, {size} were asked: lower `size` or add templates"
            )


def options(problem: Problem) -> tuple[list[str], str]:
    """Five different answer options and the right one's letter, a function of the problem alone.

    Distractors are the solution's own intermediate numbers first (picking one is the typical
    mistake), then near misses of the answer."""
    rng = Random(f"{problem.template} {problem.question}")
    right = problem.final
    intermediate = [n for n in dict.fromkeys(problem.numbers) if n != right]
    rng.shuffle(intermediate)
    base = int(float(right))
    near = [str(max(base + d, 0)) for d in (1, -1, 2, 10, -10, 5, 3, 20, 4, 6)]
    rng.shuffle(near)
    distractors = [n for n in dict.fromkeys(intermediate[:2] + near) if n != right][:4]
    values = [right, *distractors]
    rng.shuffle(values)
    return values, LETTERS[values.index(right)]


def solutions(problem: Problem) -> tuple[list[str], int]:
    """Five worked answers that differ in the final result only, and the number of the right one.

    The result of the last step is replaced along with the answer, so that each is the same text but for a number:
    telling them apart takes the arithmetic."""
    values, letter = options(problem)
    body = problem.answer.rsplit("####", 1)[0]
    results = list(re.finditer(rf"(?<![\d.,]){re.escape(problem.final)}(?![\d,]|\.\d)", body))
    cut = results[-1].span() if results else (len(body), len(body))
    written = [f"{body[: cut[0]]}{value if results else ''}{body[cut[1] :]}#### {value}" for value in values]
    return written, LETTERS.index(letter)


def prompt(question: str, values: Sequence[str] | None = None) -> str:
    """The text before the solution: GSM8K's `Question: … Answer:`, with options where there are any."""
    choice = "\nOptions: " + " ".join(map("({}) {}".format, LETTERS, values)) if values else ""
    return f"Question: {question}{choice}\nAnswer:"


@cache
def _generators():
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import GSMSymbolicDataset, GSMSymbolicDatasetConfig  # slow

    return GSMSymbolicDataset(GSMSymbolicDatasetConfig(size=1)).generators
