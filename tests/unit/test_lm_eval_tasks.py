"""lm-eval's tasks on our data: prompts, answers as they are read, outcomes, and what definitions are refused."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lab import TASKS, Lab, speak
from lm_eval.filters import build_filter_ensemble

from pruning.config.default import DEFAULT
from pruning.config.tasks import LmEvalTask
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.data import adapters
from pruning.data.datasets import adapt
from pruning.evaluation import generation, harness, kinds, tasks
from pruning.evaluation.kinds import lm_eval as of_lm_eval
from pruning.evaluation.samples import outcomes

SPORES = "Which piece of safety equipment is used to keep mold spores from entering the respiratory system?"
MASKS = ["safety goggles", "breathing mask", "rubber gloves", "lead apron"]
ROCK = "When a rock is placed in a graduated cylinder containing water, the height of the water will"
ARC = [
    {"id": "Mercury_7081673", "query": f"Question: {SPORES}\nAnswer:", "choices": MASKS, "gold": 1},
    {"id": "NYSEDREGENTS_2008_4_6", "query": f"Question: {ROCK}\nAnswer:", "gold": 1}
    | {"choices": ["decrease", "increase", "remain the same"]},
]
BIRDS = "Three birds are flying at a fast rate of 900 kilometers per hour. What is their speed in miles per minute? "
BIRDS += "[1km = 0.6 miles]"
AQUA = [
    {"question": BIRDS, "rationale": "900 kilometers = 540 miles", "correct": "A"}
    | {"options": ["A)32400", "B)6000", "C)600", "D)60000", "E)10"]},
    {"question": "Add: +45 and -30", "rationale": "45 - 30 = 15\nANSWER : D", "correct": "D"}
    | {"options": ["A)-30", "B)+30", "C)0", "D)15", "E)-15"]},
]
ARC_FIELDS, AQUA_FIELDS = ["id", "question", "choices", "answerKey"], ["query", "choices", "gold"]


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(scope="module")
def arc(tmp_path_factory) -> SimpleNamespace:
    lab = Lab(tmp_path_factory.mktemp("arc"))
    return SimpleNamespace(lab=lab, result=lab.evaluated("arc_easy", ARC, "arc_olmo", ARC_FIELDS))


def samples_of(result: dict) -> list[dict]:
    (samples,) = result["samples"].values()
    return samples


def rendered(result: dict) -> tuple[list[list[tuple[str, str]]], list[str]]:
    """(context, continuation) of every option, an item each, and the items' targets."""
    samples = samples_of(result)
    options = [[tuple(arguments) for arguments in sample["arguments"]] for sample in samples]
    return options, [str(sample["target"]) for sample in samples]


def test_a_number_is_an_answer_where_there_are_no_options(lab):
    records = [{"question": "What is 1 + 1?", "answer": 2, "template": 0}]
    definition = lab.definition("gsm_symbolic", records, doc_to_target="answer")
    assert harness.texts(definition) == [("Question: What is 1 + 1?\nAnswer:", " 2")]


def test_every_adapter_has_a_golden_prompt_here():
    names = {path.stem for path in Path(adapters.__file__).parent.glob("*.py")} - {"__init__"}
    assert names == {"arc_olmo", "aqua_raw", "aqua_rationale"}


def test_arc_is_rendered_as_lm_eval_does(arc):
    options = [[(record["query"], f" {choice}") for choice in record["choices"]] for record in ARC]
    assert rendered(arc.result) == (options, ["1", "1"])


def test_aqua_is_rendered_as_agieval_does(lab):
    ends = "\nA: Among A through E, the answer is"
    birds = f"Q: {BIRDS} Answer Choices: (A)32400 (B)6000 (C)600 (D)60000 (E)10{ends}"
    add = f"Q: Add: +45 and -30 Answer Choices: (A)-30 (B)+30 (C)0 (D)15 (E)-15{ends}"
    options = [["(A)32400", "(B)6000", "(C)600", "(D)60000", "(E)10"], ["(A)-30", "(B)+30", "(C)0", "(D)15", "(E)-15"]]
    wanted = [[(q, f" {o}") for o in own] for q, own in zip((birds, add), options, strict=True)]
    assert rendered(lab.evaluated("aqua", AQUA, "aqua_raw", AQUA_FIELDS)) == (wanted, ["[0]", "[3]"])


def test_aqua_is_tuned_on_the_form_it_is_asked_and_read_in(lab):
    """The recovery's text: the question as AGIEval words it, the rationale, the letter where aqua_cot looks for it."""
    dataset = DEFAULT.datasets["aqua_rat"]
    (_, add) = adapt(AQUA, "aqua_rationale", dataset.fields, "train")
    question = "Q: Add: +45 and -30 Answer Choices: (A)-30 (B)+30 (C)0 (D)15 (E)-15\nA:"
    completion = " 45 - 30 = 15\nANSWER : D\nThe answer is (D)"
    assert dataset.prompt.format_map(add) == question
    assert dataset.completion.format_map(add) == completion

    samples = samples_of(lab.evaluated("aqua_cot", AQUA, "aqua_raw", AQUA_FIELDS))
    asked = {sample["arguments"][0][0] for sample in samples if sample["doc_id"] == 1}
    assert asked == {question + " Let's think step by step."}
    assert read(completion) == ("D", "D")


def read(text: str) -> tuple[str, str]:
    """The answer that aqua_cot's strict and flexible filters find, by lm-eval's own filters; `-` for none."""
    answers = []
    for entry in tasks.definition(TASKS / "aqua_cot.yaml")["filter_list"]:
        steps = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in entry["filter"]]
        request = SimpleNamespace(resps=[text], doc={}, doc_id=0, filtered_resps={})
        build_filter_ensemble(entry["name"], steps).apply([request])
        answers.append(request.filtered_resps[entry["name"]].replace("[invalid]", "-"))
    return tuple(answers)


LETTERS = {  # what the strict and the flexible filter find -> in which answers
    ("-", "-"): [  # the article, and none at all
        *("A train leaves at 5 and is 3 hours late, so the answer is 5", "The answer is A train", ""),
        *("The answer is A 5-digit number", "the answer is: A man of 30 years", "Answer: A train of 100 m"),
        *("The answer is\nA train", "The answer is 5. A train is faster", 'It is A "fast" train', "A's speed is 5"),
        "A boat goes upstream. A",  # cut off after an article
        *("A *fast* train, A $5 ticket, A (small) fee", "At 9 A.M. he starts", "A = 5", "An answer is what we want"),
        *("so the answer is 5", "The answer is Because"),
    ],
    ("A", "A"): [
        *("The answer is (A)", "The answer is A)", "The answer is A) 32400", "So the answer is A.", "The answer is A"),
        *("The answer is A\nNext, a train", "The answer is A because 5 + 3 = 8", "answer: A", "ANSWER : A"),
        *("The answer is **A**", "The answer is $\\boxed{A}$", "The answer is \\boxed{\\text{A}}"),
        *("The answer is option A with 600", "The answer is the correct choice (A)"),
    ],
    ("-", "A"): [
        *("Hence \\boxed{A}", "so option A", "which is option A with 600", "It must be (A) 600", "A) 32400"),
        "The speed is 32400.\nA\n",
    ],
    ("C", "C"): ["The answer is C", "the answer is 600 (C) km"],
    ("E", "E"): ["A train leaves at 5. The answer is 5, hence (E)."],
    ("-", "B"): ["A train leaves. Options: (A) 5 (B) 6. So it is B", "The answer is B * 5"],
    ("B", "B"): ["The answer is (B). Q: A man"],
    ("B", "C"): ["The answer is (B). No, the answer is (C)."],
    ("D", "D"): ["45 - 30 = 15\nANSWER : D\nThe answer is (D)"],
}


@pytest.mark.parametrize(("found", "text"), [(found, text) for found, texts in LETTERS.items() for text in texts])
def test_aquas_generated_answer_is_a_letter_and_never_the_article(found, text):
    assert read(text) == found


def log_likelihood(lab: Lab, context: str, continuation: str) -> float:
    """By hand: log-probabilities of the continuation's tokens."""
    ids = lab.tokenizer(context + continuation)["input_ids"]
    start = len(lab.tokenizer(context)["input_ids"])
    log_p = lab.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(log_p[t - 1, ids[t]].item() for t in range(start, len(ids)))


def test_outcomes_of_scored_options_are_worked_out_by_hand(arc):
    frame = outcomes(arc.result, arc.lab.cached().answers, ["acc_norm", "acc"])
    assert frame["metric"].tolist() == ["acc", "acc", "acc_norm", "acc_norm"]
    assert frame["item"].tolist() == [0, 1, 0, 1]
    for item, record in enumerate(ARC):
        scores = [log_likelihood(arc.lab, record["query"], f" {choice}") for choice in record["choices"]]
        best = max(range(len(scores)), key=scores.__getitem__)
        a_letter = [score / len(choice) for score, choice in zip(scores, record["choices"], strict=True)]
        best_norm = max(range(len(scores)), key=a_letter.__getitem__)
        acc, norm = (frame[(frame["item"] == item) & (frame["metric"] == m)].iloc[0] for m in ("acc", "acc_norm"))
        assert acc["prediction"] == str(best)
        assert acc["value"] == float(best == record["gold"])
        assert norm["value"] == float(best_norm == record["gold"])
        assert acc["target"] == "1"
    assert frame["weight"].tolist() == [1] * 4 and frame["cluster"].dtype == "string"
    assert frame[["generated_tokens", "finish_reason", "cluster"]].isna().all(axis=None)
    assert frame.groupby("item")["item_hash"].nunique().tolist() == [1, 1]
    assert frame["item_hash"].nunique() == 2


def test_item_hashes_change_with_the_item_and_not_with_the_model(arc, lab):
    one = outcomes(arc.result, arc.lab.cached().answers, ["acc"])
    lab.model.lm_head.weight.neg_()
    edited = [ARC[0], {**ARC[1], "choices": ["decrease", "increase", "stay the same"]}]
    two = outcomes(lab.evaluated("arc_easy", edited, "arc_olmo", ARC_FIELDS), lab.cached().answers, ["acc"])
    assert one["item_hash"][0] == two["item_hash"][0]
    assert one["item_hash"][1] != two["item_hash"][1]


PROBLEMS = [
    {"question": "What is 1 + 1?", "answer": "1 + 1 = 2\n#### 2", "template": 4},
    {"question": "How many days are two weeks?", "answer": "2 * 7 = 14\n#### 14", "template": 95},
    {"question": "What is 3 * 400?", "answer": "3 * 400 = 1,200\n#### 1200", "template": 4},
]


def settings(**changes) -> dict:
    """Of a task, as a job has them."""
    own = LmEvalTask(kind="lm_eval", title="T", metrics=["exact_match,strict-match"], **changes)
    return own.model_dump() | {"dtype": "float32"}


@pytest.mark.parametrize("right", [0, 1], ids=["none of four right", "one of four"])
def test_a_hopeless_model_is_asked_no_further(lab, monkeypatch, right):
    """The upper end of Wilson's 99% interval is z²/(4 + z²) = 0.624 after no right answer of four, 0.785 after one."""
    problems = [{"question": f"What is {n} + {n}?", "answer": f"#### {2 * n}", "template": n} for n in range(9)]
    texts = {p["question"]: f"#### {2 * n + (n >= right)}\n\nQuestion:" for n, p in enumerate(problems)}
    said, seen = speak(texts, lab), []
    monkeypatch.setattr(generation, "greedy", lambda *args, **kw: (seen.append(len(args[1])), said(*args, **kw))[1])
    source = lab.path.with_name("task.yaml")
    source.write_text(yaml.safe_dump(lab.definition("gsm_symbolic", problems)))
    own = settings(stop_early={"after": 4, "below": 0.7}, limit=8, batch_size=2)
    outcome = of_lm_eval.ask(lab.model, lab.tokenizer, own, source, kinds.Cache(lab.path.parent, "t", ["m"]))
    asked = 8 if right else 4
    assert outcome.samples["item"].tolist() == list(range(asked)) and outcome.samples["value"].sum() == right
    assert sum(seen) == asked  # the first four not again
    stopped = None if right else {"exact_match,strict-match": pytest.approx(0.62388, abs=1e-5)}
    assert outcome.result.get("stopped_early") == stopped


def test_of_more_data_only_what_is_new_is_asked(lab, monkeypatch):
    said, seen = speak({p["question"]: f"{p['answer']}\n\nQuestion:" for p in PROBLEMS}, lab), []
    monkeypatch.setattr(generation, "greedy", lambda *args, **kw: (seen.append(len(args[1])), said(*args, **kw))[1])
    source, counts = lab.path.with_name("task.yaml"), []
    for problems in (PROBLEMS[1:], PROBLEMS, [PROBLEMS[0] | {"answer": "#### 3"}, *PROBLEMS[1:]]):
        source.write_text(yaml.safe_dump(lab.definition("gsm_symbolic", problems)))
        cache = kinds.Cache(lab.path.parent, "t", ["m"])
        outcome = of_lm_eval.ask(lab.model, lab.tokenizer, settings(), source, cache)
        counts.append((sum(seen), len(outcome.samples), outcome.samples["value"].sum()))
    assert counts == [(2, 2, 2), (3, 3, 3), (3, 3, 2)]  # another reference answer is no other question


def test_a_model_is_hopeless_where_it_is_by_every_metric_and_each_is_an_accuracy():
    frame = pd.DataFrame({"metric": ["a"] * 4 + ["b"] * 4, "value": [0.0] * 4 + [0, 1, 1, 1]})
    given = {"after": 4, "below": 0.7, "confidence": 0.99}
    assert of_lm_eval.hopeless(frame, **given) == {}
    assert of_lm_eval.hopeless(frame[:4], **given) == {"a": pytest.approx(0.62388, abs=1e-5)}
    with pytest.raises(InputError, match="stop_early: b is no accuracy"):
        of_lm_eval.hopeless(frame.assign(value=frame["value"] / 2), **given)


SWAPS = {
    "shuffled": lambda table, train: (table.take([2, 0, 1]), "was changed after it was made"),
    "another split's": lambda table, train: (train, "is results/data/sums/train.parquet, put in another's place"),
}


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_items_that_are_not_the_tasks_own_are_refused(lab, swap):
    folder, source = lab.path.parent / "results/data/sums", lab.path.with_name("task.yaml")
    for split in ("test", "train"):
        artifacts.write_parquet(folder / f"{split}.parquet", pd.DataFrame(PROBLEMS).iloc[::-1], "dataset", {})
    data, words = swap(*(pq.read_table(folder / f"{split}.parquet", partitioning=None) for split in ("test", "train")))
    pq.write_table(data, folder / "test.parquet")
    definition = lab.definition("gsm_symbolic", PROBLEMS)
    definition["dataset_kwargs"]["data_files"] = {"test": str(folder / "test.parquet")}
    source.write_text(yaml.safe_dump(definition))
    with pytest.raises(InputError, match=f"sums/test.parquet: {words}; delete it"):
        of_lm_eval.ask(lab.model, lab.tokenizer, settings(), source, kinds.Cache(folder, "t", ["m"]))


def test_items_are_read_anew_though_path_and_times_are_as_before(lab):
    """datasets' own cache would give the earlier ones."""
    asked = []
    for name in ("1", "2"):
        records = [{"question": f"What is {name} + 1?", "answer": "#### 2", "template": 0}]
        result = lab.evaluated("gsm_symbolic", records)
        asked += [sample["doc"]["question"] for sample in samples_of(result)]
    assert asked == ["What is 1 + 1?", "What is 2 + 1?"]
    assert "cache_dir" not in str(result["configs"])


def test_prompts_are_as_the_config_asks(lab, monkeypatch):
    """Two shared examples, the items from the second on, in chat format, with short answers."""
    monkeypatch.setattr(generation, "greedy", speak({"Question": "mm" * 99}, lab))
    lab.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    definition = lab.definition("gsm_symbolic", PROBLEMS, fewshot_split="test")
    asked = {"num_fewshot": 2, "shared_examples": True, "chat_template": True, "max_gen_toks": 7}
    result = harness.evaluate(lab.cached(), definition, 1, 2, **asked)
    for limit, expected in ((None, [1, 2]), (5, [1, 2]), (1, [1])):
        some = harness.evaluate(lab.cached(), definition, limit, 1, **asked)
        assert [sample["doc_id"] for sample in samples_of(some)] == expected
    with pytest.raises(InputError, match=r"first: 3, but .*data\.parquet has only 3 items"):
        harness.evaluate(lab.cached(), definition, None, 3, **asked)
    [sample] = samples_of(result)
    first, second, third = PROBLEMS
    shown = "".join(
        f"<user>Question: {p['question']}\nAnswer:<assistant>{p['answer'].split('#### ')[1]}" for p in (first, second)
    )
    assert sample["doc_id"] == 2
    assert sample["arguments"][0][0] == f"{shown}<user>Question: {third['question']}\nAnswer:<assistant>"
    assert outcomes(result, lab.cached().answers, ["exact_match,strict-match"])["generated_tokens"].tolist() == [7]


@pytest.mark.parametrize("shared", [True, False])
def test_a_tasks_own_examples_are_shown_and_never_the_items_asked(lab, monkeypatch, shared):
    monkeypatch.setattr(generation, "greedy", speak({"Question": "m"}, lab))
    definition = lab.definition("gsm_symbolic", PROBLEMS)
    asked = {"num_fewshot": 1, "shared_examples": shared}
    with pytest.raises(
        InputError, match="num_fewshot: 1: the task has no examples but the items that are evaluated: name"
    ):
        harness.evaluate(lab.cached(), definition, 1, **asked)
    own = {"samples": [{"question": f"Own {n}?", "answer": f"#### {n}"} for n in (5, 6)]}
    result = harness.evaluate(lab.cached(), {**definition, "fewshot_config": own}, 3, **asked)
    prompts = [sample["arguments"][0][0] for sample in samples_of(result)]
    assert all("Own 5?" in prompt or "Own 6?" in prompt and not shared for prompt in prompts)
    assert [prompt.count("Question:") for prompt in prompts] == [2, 2, 2]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ question.__class__.__mro__[1].__subclasses__() }}", "access to attribute '__class__'"),
        ("{{ questoin }}", "'questoin' is undefined"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it takes more than 0.2 s"),
        ("{{ 'x' * 10**10 }}", r"\* makes more than 1,000,000 of something"),
        ("{{ 9**9**9 }}", r"\*\* makes more than 1,000,000 of something"),
    ],
)
def test_a_template_gets_at_the_items_fields_alone(lab, template, message, monkeypatch):
    monkeypatch.setattr(harness, "SECONDS", 0.2)
    with pytest.raises(InputError, match=f"a template cannot be rendered: .*{message}"):
        harness.evaluate(lab.cached(), lab.definition("gsm_symbolic", PROBLEMS, doc_to_text=template), 1)


REGEX = {"function": "regex", "regex_pattern": "("}
MEAN = {"aggregation": "mean", "higher_is_better": True}
LOOP = "{% for i in range(10**9) %}x{% endfor %}"
ODD = {  # changes of a definition -> what is said
    "looping": ({"doc_to_text": LOOP}, "apply_template: OverflowError Range too big"),
    "division": ({"doc_to_text": "{{ 1 / 0 }}"}, "apply_template: ZeroDivisionError division by zero"),
    "types": ({"doc_to_text": "{{ question + 1 }}"}, "apply_template: TypeError can only concatenate"),
    "recursion": ({"doc_to_text": "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"}, "apply_template: RecursionError"),
    "no text": ({"doc_to_text": 3}, "build_qa_turn: AssertionError Context is not a string"),
    "unknown key": ({"doc_to_txt": "x"}, "init: TypeError .* unexpected keyword argument 'doc_to_txt'"),
    "unknown filter": ({"filter_list": [{"name": "s", "filter": [{"function": "shout"}]}]}, "Unknown filter 'shout'"),
    "broken pattern": ({"filter_list": [{"name": "s", "filter": [REGEX]}]}, "unterminated subpattern"),
    "unknown metric": ({"metric_list": [{"metric": "wow", **MEAN}]}, "process_results: TypeError"),
    "unknown sampler": ({"fewshot_config": {"sampler": "wow"}, "num_fewshot": 1}, "no sampling strategy"),
    "no such split": ({"fewshot_split": "none", "num_fewshot": 1}, "fewshot_docs: KeyError 'none'"),
    "too many examples": ({"fewshot_split": "test", "num_fewshot": 9}, "Sample larger than population"),
    "a function in words": ({"process_docs": "x"}, "'str' object is not callable"),
    "unknown option": ({"dataset_kwargs": {"nope": 1}}, "unexpected keyword argument 'nope'"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_lm_eval_cannot_ask_is_one_line(lab, name: str, monkeypatch):
    changes, message = ODD[name]
    monkeypatch.setattr(generation, "greedy", speak({"Question": "mm"}, lab))
    words = f"task gsm_symbolic: lm-eval cannot evaluate it as it is defined: .*{message}"
    with pytest.raises(InputError, match=words) as error:
        harness.evaluate(lab.cached(), lab.definition("gsm_symbolic", PROBLEMS, **changes), 1)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_an_error_of_the_model_is_not_taken_for_one_of_the_task(lab, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise ValueError("of the model")

    monkeypatch.setattr(generation, "greedy", fails)
    with pytest.raises(ValueError, match="^of the model$"):
        lab.evaluated("gsm_symbolic", PROBLEMS)


def test_a_chat_format_that_is_not_there_is_refused(lab):
    with pytest.raises(InputError, match="chat_template: this model's tokenizer has none"):
        harness.evaluate(lab.cached(), {"task": "x"}, None, chat_template=True)


def test_outcomes_of_generated_answers_by_hand(lab, monkeypatch):
    """Right, wrong, and endless."""
    written = ["1 + 1 = 2\n#### 2\n\nQuestion: and", "2 * 7 = 15\n#### 15\n\nQuestion:", "mmmm" * 100]
    texts = {problem["question"]: text for problem, text in zip(PROBLEMS, written, strict=True)}
    monkeypatch.setattr(generation, "greedy", speak(texts, lab))
    result = lab.evaluated("gsm_symbolic", PROBLEMS)
    wanted = [f"Question: {problem['question']}\nAnswer:" for problem in PROBLEMS]
    assert [sample["arguments"][0][0] for sample in samples_of(result)] == wanted
    solved = outcomes(result, lab.cached().answers, ["exact_match,strict-match"])
    assert solved["value"].tolist() == [1, 0, 0]
    assert solved["prediction"].tolist() == ["2", "15", "[invalid]"]
    assert solved["target"].tolist() == ["2", "14", "1200"]
    stopped = ["1 + 1 = 2\n#### 2\n\nQuestion:", "2 * 7 = 15\n#### 15\n\nQuestion:"]
    assert solved["generated_tokens"].tolist() == [*map(len, stopped), 192]
    assert solved["finish_reason"].tolist() == ["stop", "stop", "length"]
    assert solved["item_hash"].nunique() == 3
    assert solved["cluster"].tolist() == ["4", "95", "4"]


def test_an_unknown_metric_names_those_there_are(arc):
    with pytest.raises(InputError, match=r"metrics: \['exact_match'\] not among this task's: \['acc', 'acc_norm'\]"):
        outcomes(arc.result, arc.lab.cached().answers, ["acc", "exact_match"])


def test_a_metric_that_is_no_number_of_an_item_is_named(arc):
    """As lm-eval's f1, a pair that only its mean makes a number of."""
    [(name, found)] = arc.result["samples"].items()
    pairs = {"samples": {name: [{**sample, "acc": (0, 1)} for sample in found]}}
    with pytest.raises(InputError, match=r"^metrics: acc is no number of each item, but \(0, 1\): name another one"):
        outcomes(pairs, arc.lab.cached().answers, ["acc"])
