"""Token classes by hand, token by token."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import tiny
from pruning.calibration.columns import TOKEN_CLASSES
from pruning.paper.token_classes import FUNCTION_WORDS, classes_of, token_class, vocabulary_classes


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        ("digit", ["7", " 42", "3rd", "1.", "$5", "²", "x2"]),
        ("operator", ["+", " -", "*", "/", "=", " <", ">>", "<<", "×", "÷", "%", "^", " $", "+=", "####", " #### "]),
        ("function", ["the", " The", "OF", " they", "because", " would", "'s", "n't"]),
        ("punctuation", [".", " ,", "?!", "\n\n", "   ", "", "(", "#", "##", "#####", ")=", "…", "。", "“", "|", "_"]),
        ("other", [" apples", "Jan", "ing", "thee", "then-", "é", "�", "你", "a+b", "=x", "😀"]),
    ],
)
def test_by_their_text(expected, texts):
    assert {text: TOKEN_CLASSES[token_class(text)] for text in texts} == dict.fromkeys(texts, expected)


def test_function_words_are_reachable():
    """Lower case, without spaces, and caught by no earlier rule."""
    assert 100 < len(FUNCTION_WORDS) < 200
    assert {TOKEN_CLASSES[token_class(word)] for word in FUNCTION_WORDS} == {"function"}


def test_a_vocabulary_with_special_tokens_and_spare_rows():
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|step1|>"]})  # has a digit, but is special
    classes = vocabulary_classes(tokenizer, 262)  # four more rows than tokens
    assert classes.dtype == torch.int8 and classes.shape == (262,)

    def named(token: str) -> str:
        return TOKEN_CLASSES[classes[tokenizer.convert_tokens_to_ids(token)]]

    names = {"5": "digit", "+": "operator", "a": "function", "z": "other", "Ġ": "punctuation", ".": "punctuation"}
    names |= {"<|end|>": "punctuation", "<|step1|>": "punctuation"}
    assert {token: named(token) for token in names} == names
    assert tokenizer.pad_token_id == 0 and len(tokenizer) == 258
    assert {TOKEN_CLASSES[c] for c in classes[258:]} == {"punctuation"}
    assert torch.equal(vocabulary_classes(tokenizer, 257), classes[:257])  # a model without a row for the new token
    assert (classes != 0).all()  # `first` is a place, not a token


def test_words_after_a_space_in_a_trained_tokenizer():
    tokenizer = PreTrainedTokenizerFast.from_pretrained("resources/tiny-reasoner")
    ids = tokenizer("She has 12 apples, and they are $3.")["input_ids"]
    classes = vocabulary_classes(tokenizer, len(tokenizer))
    found = [(tokenizer.decode([i]).strip(), TOKEN_CLASSES[classes[i]]) for i in ids]
    for pair in [("has", "function"), ("and", "function"), (",", "punctuation"), ("$", "operator"), ("3", "digit")]:
        assert pair in found


def test_the_first_token_of_a_sequence_is_first_whatever_it_is():
    vocabulary = torch.tensor([4, 1, 5], dtype=torch.int8)
    ids = torch.tensor([[1, 1, 2], [0, 2, 0]])
    assert classes_of(ids, vocabulary).tolist() == [[0, 1, 5], [0, 5, 4]]
    assert vocabulary.tolist() == [4, 1, 5]
