"""How badly a generated text has degenerated: repetition, endless loops, answers that are not given in due form.

Tokens are any hashable units, here the model's token numbers; texts of models with other tokenizers are not comparable.
"""

import re
from collections.abc import Hashable, Sequence


def repetition(tokens: Sequence[Hashable]) -> float:
    """Share of the 4-grams that occurred before: 1 - unique / all; 0 for fewer than 5 tokens.

    Source: Welleck et al. (2020), "Neural text generation with unlikelihood training", section 6.1, seq-rep-n."""
    grams = list(zip(*(tokens[start:] for start in range(4)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def final_loop(tokens: Sequence[Hashable]) -> float:
    """Share of the tokens in the loop that the text ends in: its longest ending that repeats one phrase, of any
    length, at least twice in full; 0 if there is none."""
    longest = 0
    for period in range(1, len(tokens) // 2 + 1):
        length = period
        while length < len(tokens) and tokens[-1 - length] == tokens[period - 1 - length]:
            length += 1
        if length >= 2 * period:
            longest = max(longest, length)
    return longest / len(tokens) if tokens else 0.0


def extract_answer(text: str, pattern: str) -> str | None:
    """Group 1 of the pattern's first match, without commas and a final full stop; None if there is none."""
    match = re.search(pattern, text)
    return match[1].replace(",", "").removesuffix(".").strip() if match and match[1] is not None else None
