"""Table 5: generation equals a plain greedy loop; whatever a broken model writes, the tables show it whole."""

import re
from html import unescape
from io import StringIO
from itertools import product

import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing

import tiny
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.models import loading
from pruning.paper import cases
from pruning.paper.tables import table5
from pruning.report.files import Files

SETTINGS = {"items": [2, 0, 1], "prompt": "Q: {question}\nA:", "target": "{answer}", "tokens": 12, "until": ["Q:"]}
SETTINGS |= {"answer_pattern": r"#### (-?[0-9.,]+)", "dtype": "float32"}
TABLE = {"models": ["tiny"], "calib": "gsm8k-s0", "sparsity": 40, "methods": ["dense", "rku", "wanda"], "excerpt": 60}
NASTY = "a|b\\|c `x` **y** _z_ <b>&lt; [l](u) ![i](u) ~~s~~ $1$\n\n# h\n| r |\n```\n- l\t1\n> q \\"


@pytest.fixture
def folder(tmp_path):
    tiny.save(tiny.qwen2(), tmp_path / "model")
    (tmp_path / "its.json").write_text("{}")
    frame = pd.DataFrame(
        {"question": ["1+1", "a long question: 2+2+2", "3"], "answer": ["#### 2", "x #### 1,006", "3"]}
    )
    artifacts.write_parquet(tmp_path / "data.parquet", frame, "dataset", {})
    return tmp_path


def run(folder, adapter=None, **changes):
    files = [f"model={folder}/model", f"manifest={folder}/its.json", f"data={folder}/data.parquet"]
    files += [f"adapter={adapter}"] if adapter else []
    cases.write(Files(files), {**SETTINGS, **changes}, [folder / "cases.json"])
    return artifacts.read_json(folder / "cases.json", "cases")["cases"]


def greedy(model, ids: list[int], tokens: int, end: set[int]) -> list[int]:
    """The most likely token, one after the other, each from a whole forward pass."""
    found = []
    while len(found) < tokens:
        token = int(model(torch.tensor([ids + found])).logits[0, -1].argmax())
        if token in end:
            break
        found.append(token)
    return found


def test_a_batch_writes_what_each_prompt_gets_alone_to_its_end_token_without_a_repetition_penalty(folder):
    model, tokenizer = loading.load(folder / "model", "float32")
    prompts = ["Q: 1", "Q: a much longer question\nA:", "?"]
    whole = [greedy(model, tokenizer(prompt)["input_ids"], 12, set()) for prompt in prompts]
    # One that the generation config lists, and the tokenizer's own.
    listed, own = (next(token for token in tokens[1:] if token not in tokens[:1]) for tokens in whole[::2])
    ends = {listed, own}
    model.generation_config.update(eos_token_id=[listed, 256], repetition_penalty=5.0)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(own)
    expected = [greedy(model, tokenizer(prompt)["input_ids"], 12, ends) for prompt in prompts]
    assert (
        0 < len(expected[0]) < 12 == max(map(len, expected))
        and 0 < len(expected[2]) < 12
        and len(set(map(tuple, expected))) == 3
    )
    found = cases.generate(model, tokenizer, prompts, 12)
    assert found == [(tokens, "stop" if len(tokens) < 12 else "length") for tokens in expected]


def test_a_chat_formats_first_token_is_given_once(folder, monkeypatch):
    """Tokenizers as Llama 3's and Gemma's begin a text by a token that their chat formats write as well."""
    model, tokenizer = loading.load(folder / "model", "float32")
    tokenizer.bos_token, given = "<|end|>", []
    first = tokenizer.convert_tokens_to_ids("<|end|>")
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", first)])
    monkeypatch.setattr(model, "generate", lambda input_ids, **_: given.append(input_ids.tolist()) or input_ids)
    for prompt in ("<|end|>abc", "abc"):
        cases.generate(model, tokenizer, [prompt], 1)
    assert given[0] == given[1] and given[0][0].count(first) == 1


def test_cases_of_a_model_that_answers(folder, monkeypatch):
    texts = ["#### 3", "so #### 2.\nQ: again #### 9", "hm\nQ: #### 1006"]
    tokenizer = tiny.tokenizer()
    monkeypatch.setattr(cases, "generate", lambda *_: [(tokenizer(text)["input_ids"], "stop") for text in texts])
    third, first, second = run(folder, until=["", "Q:"])  # an empty one ends no text, as in lm-eval
    assert [third["item"], first["item"], second["item"]] == [2, 0, 1]
    assert first["prompt"] == "Q: 1+1\nA:" and first["text"] == texts[1]
    assert (third["answer"], third["target_answer"], third["correct"]) == ("3", "3", True)
    assert (first["answer"], first["target_answer"], first["correct"]) == ("2", "2", True)
    assert (second["answer"], second["target"], second["target_answer"]) == (None, "x #### 1,006", "1006")
    assert second["format_failure"] and not second["correct"] and not first["format_failure"]
    assert third["tokens"] == 6 and third["repetition"] == 0 and second["finish"] == "stop"


def test_an_adapter_changes_the_texts_and_the_end_token_still_ends_them(folder):
    plain = run(folder)
    model, _ = loading.load(folder / "model", "float32")
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["down_proj"], init_lora_weights=False))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.mul_(20)
    tuned.save_pretrained(folder / "adapter")
    adapted = run(folder, folder / "adapter")
    assert [case["text"] for case in adapted] != [case["text"] for case in plain]
    alone = greedy(tuned, tiny.tokenizer()(adapted[0]["prompt"])["input_ids"], 12, {0})
    assert adapted[0]["text"] == tiny.tokenizer().decode(alone) and adapted[0]["tokens"] == len(alone)


def test_prompts_in_chat_format_are_put_as_the_users_turn(folder):
    model, tokenizer = loading.load(folder / "model", "float32")
    with pytest.raises(InputError, match="cases.chat_template: this model's tokenizer has none"):
        run(folder, chat_template=True)
    tokenizer.chat_template = "[{{ messages[0].content }}]{% if add_generation_prompt %}!{% endif %}"
    tokenizer.save_pretrained(folder / "model")
    found = run(folder, chat_template=True, prompt="{question}")[1]
    alone = greedy(model, tokenizer("[1+1]!")["input_ids"], 12, {0})
    assert (found["prompt"], found["text"]) == ("1+1", tiny.tokenizer().decode(alone))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": [1, 3, -1]}, r"items: \[3, -1\] not in .*data.parquet, which has 3 records"),
        ({"prompt": "{text}"}, r"data.parquet: prompt or target needs a field 'text'; it has \['answer', 'question'\]"),
        ({"answer_pattern": "[0-9"}, "answer_pattern: .* no regular expression"),
        ({"answer_pattern": "[0-9]+"}, "answer_pattern: .* has no group"),
    ],
)
def test_bad_settings_are_named(folder, changes, message):
    with pytest.raises(InputError, match=message):
        run(folder, **changes)


def case(text, item=4, answer="7", right="7", tokens=10, **changes) -> dict:
    made = {"item": item, "prompt": f"Q{item}|\n- *b*", "target": f"#### {right}", "target_answer": right, "text": text}
    made |= {"tokens": tokens, "finish": "stop", "repetition": 0.25, "final_loop": 0.0, "answer": answer}
    return made | {"format_failure": answer is None, "correct": answer == right} | changes


@pytest.fixture
def made() -> dict[str, list[dict]]:
    return {
        "wanda": [case("w " * 50, answer=None, tokens=20, final_loop=0.8), case("w", 9, "1", repetition=0.75)],
        "dense": [case("d"), case("d", 9)],
        "rku": [case(NASTY, answer="6"), case(" \n", 9)],
    }


def page(folder, made, **changes):
    """The table of models that all wrote `made`."""
    settings = {**TABLE, "excerpt": 1000, **changes}
    for model, (method, content) in product(settings["models"], made.items()):
        variant = "dense" if method == "dense" else f"gsm8k-s0/{method}/40"
        artifacts.write_json(folder / f"{model}/{variant}.json", {"cases": content}, "cases", {})
    return table5.make(Files([f"cases={folder}/{{model}}/{{variant}}.json"]), settings)


def rendered_cells(html: str) -> list[str]:
    cells = re.findall(r"<td>(.*?)</td>", html, flags=re.DOTALL)
    return [unescape(re.sub("</?code>", "", cell.replace("<br>", "\n"))) for cell in cells]


def test_rows_summary_and_markdown_that_shows_any_text_as_it_is(tmp_path, made):
    models = ["tiny", "small"]
    found = page(tmp_path, made, models=models)
    frame = pd.read_csv(StringIO(found.frame.to_csv(index=False)))
    assert ",".join(frame.columns) == (
        "model,calib,method,sparsity,item,tokens,finish,repetition,final_loop,format_failure,answer,target,correct,text"
    )
    assert frame["model"].tolist() == ["tiny"] * 6 + ["small"] * 6
    assert list(frame["method"]) == ["dense", "rku", "wanda"] * 4
    assert list(frame["sparsity"]) == [0, 0.4, 0.4] * 4 and list(frame["item"][:6]) == [4] * 3 + [9] * 3
    assert frame.loc[1, "text"] == NASTY and list(frame["target"]) == [7] * 12
    assert frame["answer"].isna().tolist() == [False, False, True, False, False, False] * 2
    assert re.findall("^## .*", found.markdown, flags=re.MULTILINE) == [
        f"## `{model}`, {what}" for model in models for what in ("all items", "item 4", "item 9")
    ]
    html = MarkdownIt("commonmark").enable("table").render(found.markdown)
    assert html.count("<table>") == 6 and html.count("<h2>") == 6
    cells = rendered_cells(html)
    assert len(cells) == 2 * (3 * 8 + 2 * 4 * 5)
    assert cells[:8] == ["dense", "2 of 2", "0 of 2", "0 of 2", "2 of 2", "10", "25%", "0%"]
    assert cells[16:24] == ["wanda", "0 of 2", "1 of 2", "1 of 2", "2 of 2", "15", "50%", "40%"]
    assert cells[24:29] == ["prompt", "7", "", "", "Q4|\n- *b*"]
    assert cells[29:33] == ["dense", "7 (right)", "10 (stop)", "25%"]
    assert cells[34:39] == ["rku 40%", "6 (wrong)", "10 (stop)", "25%", NASTY.replace("\t", " ")]
    assert cells[39:43] == ["wanda 40%", "no answer", "20 (stop)", "25%, loop 80%"]
    assert cells[58] == "(blank)"


def test_long_texts_are_cut_and_control_characters_shown(tmp_path, made):
    made["dense"][0]["text"] = "x" * 61 + "\n" * 3000
    made["rku"][0]["text"] = "\x00\x1b\u202ey"
    text = page(tmp_path, made, excerpt=60).markdown
    assert "| " + "x" * 60 + " … (3,001 more characters) |" in text
    assert "| ���y " in text


def test_tex_is_escaped_and_has_a_row_a_case(tmp_path, made):
    text = page(tmp_path, made).tex
    assert text.count(r"\begin{table*}") == text.count(r"\bottomrule") == 3
    assert r"a\textbar{}b\textbackslash{}\textbar{}c \textasciigrave{}x\textasciigrave{} **y** \_z\_" in text
    assert r"\_z\_ $<$b$>$\&lt; [l](u)" in text and r"\$1\$\newline \mbox{}\newline \# h" in text
    assert r"\texttt{wanda} 40\% & no answer & 20 (stop) & 25\%, loop 80\% & \parbox[t]{0.5\textwidth}" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in rows] == [7] * 4 + [4] * 10
    plain = text.replace("\\{", "").replace("\\}", "")
    assert plain.count("{") == plain.count("}")
