"""What kind of token each one is, by rules on its own text: which tokens a neuron's activation comes from.

The rules (columns.TOKEN_CLASSES, the first that holds wins) look at one token at a time: a sequence's first
token is `first`, wherever it comes from, since models put massive activations there. The text of any other is
`tokenizer.decode([id])`, stripped and in lower case:

digit          holds a digit
operator       only characters of arithmetic, comparison, currency and percent, or GSM8K's answer mark `####`
function       an English function word, from a closed list, or a clitic of one ('s, n't, ...)
punctuation    only punctuation or white space; and every special token
other          anything else: content words, parts of words, bytes
"""

import unicodedata

import torch
from torch import Tensor

from pruning.calibration.columns import TOKEN_CLASSES

FIRST, DIGIT, OPERATOR, FUNCTION, PUNCTUATION, OTHER = range(len(TOKEN_CLASSES))
OPERATORS = frozenset("+-−*/=<>≤≥≠±×÷%^$€£¥")
ANSWER_MARK = "####"
# Articles and determiners; prepositions; pronouns and question words; conjunctions; auxiliaries and negation; clitics,
# as tokenisers cut them.
WORDS = """
a an the this that these those each every either neither some any no all both such other another
of in to for with on at from by about as into through after over between out against during without before under around
among off up down above below across behind beyond near toward towards until upon within per than
i me my mine myself you your yours he him his himself she her hers herself it its itself we us our ours they them their
theirs themselves who whom whose which what where when why how there
and or but nor so yet if because while although though since unless whether then
be am is are was were been being have has had having do does did doing will would shall should can could may might must
not
's 't n't 'll 're 've 'd 'm ’s ’t n’t ’ll ’re ’ve ’d ’m
"""
FUNCTION_WORDS = frozenset(WORDS.split())


def token_class(text: str) -> int:
    """Class, an index of TOKEN_CLASSES, of a token by its text, wherever it stands but first in a sequence."""
    text = text.strip().lower()
    if any(character.isdigit() for character in text):
        return DIGIT
    if text == ANSWER_MARK or (text and OPERATORS.issuperset(text)):
        return OPERATOR
    if text in FUNCTION_WORDS:
        return FUNCTION
    return PUNCTUATION if all(map(_is_punctuation, text)) else OTHER


def vocabulary_classes(tokenizer, size: int) -> Tensor:
    """Class of each token id, int8 [size]; `size` is the model's, whose spare rows decode to nothing: punctuation."""
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(token for token, entry in added if entry.special)}
    classes = [PUNCTUATION if token in special else token_class(tokenizer.decode([token])) for token in range(size)]
    return torch.tensor(classes, dtype=torch.int8)


def classes_of(ids: Tensor, vocabulary: Tensor) -> Tensor:
    """Class of each token, int8 [B, T], of ids [B, T] whose column 0 begins the sequences; vocabulary [V]."""
    classes = vocabulary[ids]
    classes[:, 0] = FIRST
    return classes


def _is_punctuation(character: str) -> bool:
    """ASCII's symbols, which Unicode splits into several categories, and every script's punctuation and spaces."""
    ascii_symbol = character.isascii() and not character.isalnum()
    return ascii_symbol or character.isspace() or unicodedata.category(character).startswith("P")
