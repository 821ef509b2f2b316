"""Calibration text as tokens: packing by hand, masks by hand, and shards that never change what is measured."""

import json

import fetch_dataset
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from pruning.calibration.prepare import micro_batches, sampled_positions, shard_of
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.data import datasets, text
from pruning.data.text import own_answers, token_samples
from pruning.models import tokenizers

TOKENIZER = tiny.tokenizer()  # a token a character
END = TOKENIZER.eos_token_id
DOCUMENTS = [("ab", "CD"), ("e", "FGH"), ("ijk", "L")]
IN_ORDER = 5  # a seed whose shuffle leaves three documents as they are


def samples(documents=DOCUMENTS, **changes) -> list[tuple[str, str]]:
    """(text, flags) of each sample; the end token reads `.`, a flag is `A` in an answer and `-` elsewhere."""
    given = {"samples": 3, "sequence_length": 4, "packing": "concat", "seed": IN_ORDER, **changes}
    found = token_samples(documents, TOKENIZER, **given)
    read = {END: "."}
    return [
        ("".join(read.get(i) or TOKENIZER.decode([i]) for i in ids), "".join("A" if a else "-" for a in answer))
        for ids, answer in found
    ]


AQUA = {"question": "q", "options": ["A)1", "B)2"], "correct": "B"}
ARC = {"id": 1, "query": "Question: q\nAnswer:", "choices": ["a", "b"], "gold": 1}


@pytest.mark.parametrize(
    ("adapter", "record"),
    [
        *(("aqua_raw", AQUA | changes) for changes in ({"correct": "F"}, {"correct": ""}, {"options": None})),
        ("aqua_rationale", AQUA | {"options": [""], "rationale": "r"}),
        *(("arc_olmo", ARC | changes) for changes in ({"gold": 2}, {"gold": -1}, {"gold": "1"}, {"query": None})),
    ],
)
def test_a_record_that_an_adapter_cannot_read_is_named(adapter, record):
    """Not even a letter that is no option's, of which Python's `index` makes the first option."""
    with pytest.raises(InputError, match=rf"^x.jsonl: record 2: {adapter} cannot read a value of it \(\w+Error: "):
        datasets.adapt([AQUA | ARC | {"rationale": "r"}, record], adapter, None, "x.jsonl")


@pytest.mark.parametrize("values", [(1, "c"), ([1], "c"), (True, 3), (2**70, 3), ({}, {})])
def test_values_that_no_column_holds_together_are_named(tmp_path, values):
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"answer": value}) + "\n" for value in values))
    settings = {"kind": "local", "path": str(file), "adapter": None, "fields": ["answer"]}
    with pytest.raises(
        InputError, match=r"x.jsonl: field 'answer': .*; give values of one kind in all records, or leave the"
    ):
        fetch_dataset.fetch_dataset(settings, "train", tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_a_whole_number_beside_a_missing_one_stays_whole():
    found = datasets.table([{"answer": 2**53 + 1, "x": 1.5}, {"answer": None}, {"x": 1}], "x.jsonl")
    assert pa.Table.from_pandas(found).to_pydict() == {"answer": [2**53 + 1, None, None], "x": [1.5, None, 1.0]}


LONG = [("abcdefghij", "KLM")]


@pytest.mark.parametrize(
    ("documents", "changes", "expected"),
    [
        (DOCUMENTS, {}, [("abCD", "--AA"), (".eFG", "A-AA"), ("H.ij", "AA--")]),  # joined by an end token, and cut
        (LONG, {}, [("abcd", "----"), ("efgh", "----"), ("ijKL", "--AA")]),
        (DOCUMENTS, {"packing": "document"}, [("abCD", "--AA"), ("eFGH", "-AAA"), ("ijkL", "---A")]),
        (
            DOCUMENTS,
            {"packing": "document", "sequence_length": 99},
            [("abCD.", "--AAA"), ("eFGH.", "-AAAA"), ("ijkL.", "---AA")],
        ),
        (DOCUMENTS, {"samples": 1}, [("abCD", "--AA")]),
        (LONG, {"samples": 1}, [("abcd", "----")]),
        (DOCUMENTS, {"samples": 2, "packing": "document"}, [("abCD", "--AA"), ("eFGH", "-AAA")]),
    ],
)
def test_packing_by_hand(documents, changes, expected):
    assert samples(documents, **changes) == expected


def test_a_record_without_a_value_that_the_text_names_is_named(tmp_path):
    """`None` is no text."""
    frame = pd.DataFrame({"question": ["1+1?", "2+2?"], "answer": ["2", None]})
    artifacts.write_parquet(tmp_path / "own.parquet", frame, "dataset", {})
    with pytest.raises(InputError, match=r"the text needs a field 'answer'; record 2 has \['question'\]"):
        text.documents(tmp_path / "own.parquet", "{question}", " {answer}")
    assert text.documents(tmp_path / "own.parquet", "{question}", "") == [("1+1?", ""), ("2+2?", "")]


def test_the_seed_orders_the_documents():
    many = [(chr(ord("a") + i), "") for i in range(20)]
    before = list(many)
    first, again, other = (samples(many, samples=20, packing="document", seed=seed) for seed in (0, 0, 1))
    assert first == again != other and many == before
    assert sorted(first) == sorted(other) == [(f"{prompt}.", "-A") for prompt, _ in many]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 4}, "holds 3 whole samples; 4 of 4 tokens are needed"),  # 15 tokens
        ({"packing": "document", "samples": 4}, "holds 3 whole samples"),
        ({"sequence_length": 16, "samples": 1}, "holds only 15 tokens, less than one sequence"),
    ],
)
def test_not_enough_text_says_how_much_there_is(changes, message):
    with pytest.raises(InputError, match=message):
        samples(**changes)


def test_a_prompt_that_brings_its_own_first_token_gets_no_second():
    tokenizer = tiny.tokenizer()
    start = tokenizer.eos_token

    def with_start(text: str, add_special_tokens: bool = True):
        return {"input_ids": [END] * add_special_tokens + tokenizer(text, add_special_tokens=False)["input_ids"]}

    with_start.bos_token, with_start.eos_token_id = start, END  # as Llama's tokenizers do
    wanted = {"samples": 1, "sequence_length": 99, "packing": "document", "seed": 0}
    [(plain, _)] = token_samples([("ab", "C")], with_start, **wanted)
    [(formatted, answer)] = token_samples([(f"{start}ab", "C")], with_start, **wanted)
    assert plain == formatted == [END, *tokenizer("abC", add_special_tokens=False)["input_ids"], END]
    assert answer == [False, False, False, True, True]


def asked(**changes) -> pd.DataFrame:
    columns = {
        "item": [0, 1, 2, 3],
        "metric": "exact_match,strict-match",
        "value": [1.0, 0.0, 1.0, 1.0],
        "finish_reason": pd.array(["stop", "stop", "length", None], dtype="string"),
        "prompt": pd.array(["p0", "p1", "p2", "p3"], dtype="string"),
        "response": pd.array(["r0", "r1", "r2", "r3"], dtype="string"),
    }
    return pd.DataFrame({**columns, **changes})


def test_own_answers_are_the_right_ones_that_came_to_an_end():
    both = pd.concat([asked(), asked(metric="another", value=1.0)])
    found = own_answers(both, "task", "exact_match,strict-match")
    assert found.to_dict("list") == {"item": [0, 3], "prompt": ["p0", "p3"], "completion": ["r0", "r3"]}
    everything = own_answers(both.assign(value=0.0), "task", "exact_match,strict-match", "all")
    assert everything["completion"].to_list() == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": 0.0}, r"tasks.task: the model answers none of 4 questions right and to the end \(exact_match"),
        ({"finish_reason": "loop"}, "answers none of 4 questions right and to the end"),
        ({"response": pd.array([None] * 4, dtype="string")}, "its options are scored, nothing is generated"),
    ],
)
def test_a_task_that_gives_no_own_answers_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        own_answers(asked(**changes), "task", "exact_match,strict-match")


FORMAT = "{% for m in messages %}({{ m.role }}) {{ m.content }}{{ '<turn>' if m.role == 'user' else AFTER }}\n"
FORMAT += "{% endfor %}{{ '(assistant) ' if add_generation_prompt }}"


@pytest.mark.parametrize(
    ("template", "prompt", "end"),
    [
        (FORMAT.replace("AFTER", "'<turn><|end|>'"), "(system) s<turn>\n(user) q<turn>\n(assistant) ", "<turn>"),
        (FORMAT.replace("AFTER", "'.<|end|>'"), "(user) q<turn>\n(assistant) ", "<|end|>"),
        ({"default": FORMAT.replace("AFTER", "'<turn>'"), "x": "y"}, "(user) q<turn>\n(assistant) ", "<turn>"),
        (FORMAT.replace("AFTER", "''"), "(user) q<turn>\n(assistant) ", "<|end|>"),  # of the text
        (FORMAT.replace("AFTER", "'<turn>'"), "(user) q<turn>\n", None),
        (FORMAT.replace("AFTER", "'<turn>'"), "Question: q\nAnswer:", None),
        ("{{ messages[0].content }}", "q", None),
        ("{{ 1 / 0 }}", "q", None),
        (None, "q", None),
    ],
)
def test_an_answer_ends_as_the_chat_format_of_its_prompt_says(tmp_path, template, prompt, end):
    made = tiny.tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    made.chat_template = template
    made.save_pretrained(tmp_path)
    tokenizer = tokenizers.load(tmp_path)
    found = text.answer_end(prompt, tokenizer)
    assert found == (None if end is None else tokenizer.convert_tokens_to_ids(end))
    assert text.tokens(prompt, "ab", tokenizer)[1] == [*tokenizer("ab")["input_ids"], found or 0]


SEQUENCES = [([1, 2, 3], [False, True, True]), ([4, 5], [False, True]), ([6, 7, 8, 9], [False, False, False, True])]


def batches(size=2, **changes):
    return micro_batches(SEQUENCES, size, **{"pad": 0, "token_mask": "all", **changes})


def test_micro_batches_pad_on_the_right_to_their_own_longest_sample():
    first, second = batches()
    assert (first.samples.tolist(), second.samples.tolist()) == ([0, 1], [2])
    assert (first.ids.tolist(), second.ids.tolist()) == ([[1, 2, 3], [4, 5, 0]], [[6, 7, 8, 9]])
    assert first.counted.tolist() == [[True, True, True], [True, True, False]] and second.counted.all()
    assert first.objective.equal(first.counted)
    assert batches(pad=4)[0].counted.equal(first.counted)  # a token that also occurs in the text
    masked, last = batches(token_mask="answer")
    assert masked.objective.tolist() == [[False, True, True], [False, True, False]]
    assert last.objective.tolist() == [[False, False, False, True]]
    assert masked.counted.equal(first.counted)


@pytest.mark.parametrize(
    ("sequence", "token_mask"),
    [
        (([1, 2], [False, False]), "answer"),
        (([1, 2], [True, False]), "answer"),  # the first token has no predecessor: no cross-entropy
        (([1], [True]), "all"),
    ],
)
def test_a_sample_without_a_token_for_the_objective_is_named(sequence, token_mask):
    with pytest.raises(InputError, match=rf"sample 3 has no token for the objective \(token_mask: {token_mask}\)"):
        micro_batches([*SEQUENCES, sequence], 2, pad=0, token_mask=token_mask)


@given(st.integers(1, 60), st.integers(1, 70))
def test_shards_partition_the_micro_batches_in_order_and_evenly(total, shards):
    parts = [shard_of(range(total), shard, shards) for shard in range(shards)]
    assert [batch for part in parts for batch in part] == list(range(total))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def positions(tokens, seed=0, size=2):
    return sampled_positions(batches(size), tokens, seed)


def test_sampled_positions_are_real_tokens_and_as_many_as_asked():
    every = {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)}
    for tokens in (1, 5, 9, 100):
        chosen = [(s, t) for s, ts in positions(tokens).items() for t in ts]
        assert len(chosen) == len(set(chosen)) == min(tokens, 9)
        assert set(chosen) <= every
    assert {(s, t) for s, ts in positions(100).items() for t in ts} == every


def test_sampled_positions_depend_on_the_seed_alone():
    assert positions(5) == positions(5)
    assert len({str(positions(5, seed)) for seed in range(10)}) > 5
    assert positions(5, size=1) == positions(5, size=2) == positions(5, size=3)
