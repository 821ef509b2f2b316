"""Table 5: generation equals a plain greedy loop; whatever a broken model writes, the tables show it whole."""

import re
from html import unescape
from io import StringIO

import cases as cases_stage
import pandas as pd
import pytest
import torch
from markdown_it import MarkdownIt
from peft import LoraConfig, get_peft_model

import tiny
from pruning.analysis.cases import summary, table5_rows
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.models import loading
from pruning.report.files import Files
from pruning.report.tables import table5

SETTINGS = {
    "items": [2, 0, 1],
    "prompt": "Q: {question}\nA:",
    "target": "{answer}",
    "tokens": 12,
    "until": ["Q:"],
    "answer_pattern": r"#### (-?[0-9.,]+)",
    "dtype": "float32",
}
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
    files = (folder / "model", folder / "its.json", folder / "data.parquet", folder / "cases.json")
    cases_stage.cases({**SETTINGS, **changes}, *files, adapter=adapter)
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


def test_a_batch_writes_what_each_prompt_gets_alone(folder):
    model, tokenizer = loading.load(folder / "model", "float32")
    prompts = ["Q: 1", "Q: a much longer question\nA:", "?"]
    alone = [greedy(model, tokenizer(prompt)["input_ids"], 12, {0}) for prompt in prompts]
    assert cases_stage.generate(model, tokenizer, prompts, 12) == [(tokens, "length") for tokens in alone]
    assert len(set(map(tuple, alone))) == 3


def test_generation_ends_at_the_end_token_alone_and_knows_no_repetition_penalty(folder):
    model, tokenizer = loading.load(folder / "model", "float32")
    prompts = ["Q: 1", "Q: a much longer question\nA:"]
    whole = [greedy(model, tokenizer(prompt)["input_ids"], 12, set()) for prompt in prompts]
    ends = {next(token for token in whole[0][1:] if token not in whole[0][:1]), 256}
    model.generation_config.update(eos_token_id=sorted(ends), repetition_penalty=5.0)
    expected = [greedy(model, tokenizer(prompt)["input_ids"], 12, ends) for prompt in prompts]
    assert 0 < len(expected[0]) < 12
    found = cases_stage.generate(model, tokenizer, prompts, 12)
    assert found == [(tokens, "stop" if len(tokens) < 12 else "length") for tokens in expected]


def test_cases_of_a_model_that_answers(folder, monkeypatch):
    texts = ["#### 3", "so #### 2.\nQ: again #### 9", "hm\nQ: #### 1006"]
    tokenizer = tiny.tokenizer()
    monkeypatch.setattr(cases_stage, "generate", lambda *_: [(tokenizer(text)["input_ids"], "stop") for text in texts])
    third, first, second = run(folder)
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
def made():
    return {
        "wanda": [case("w " * 50, answer=None, tokens=20, final_loop=0.8), case("w", 9, "1", repetition=0.75)],
        "dense": [case("d"), case("d", 9)],
        "rku": [case(NASTY, answer="6"), case(" \n", 9)],
    }


def test_rows_and_summary_by_hand(made):
    frame = table5_rows("tiny", made, TABLE)
    assert list(frame["method"]) == ["dense", "rku", "wanda"] * 2
    assert list(frame["sparsity"]) == [0, 0.4, 0.4] * 2 and list(frame["item"]) == [4] * 3 + [9] * 3
    wanda = summary(frame).set_index("method").loc["wanda"]
    assert (wanda[["n", "right", "wrong", "none", "stopped"]] == [2, 0, 1, 1, 2]).all()
    assert (wanda[["tokens", "repetition", "final_loop"]] == [15, 0.5, 0.4]).all()
    assert summary(frame)["right"].tolist() == [2, 1, 0]


def rendered_cells(html: str, tag: str = "td") -> list[str]:
    cells = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
    return [unescape(cell.replace("<br>", "\n")) for cell in cells]


def test_markdown_shows_any_text_as_it_is(made):
    settings = {**TABLE, "excerpt": 1000}
    html = (
        MarkdownIt("commonmark")
        .enable("table")
        .render(table5.to_markdown(table5_rows("tiny", made, settings), settings))
    )
    assert html.count("<table>") == 3 and html.count("<h2>") == 3
    cells = rendered_cells(html)
    assert len(cells) == 6 * 5 + 3 * 8
    assert cells[:4] == ["dense", "7 ✓", "10 (stop)", "25%"]
    assert cells[5:10] == ["rku 40%", "6 ✗", "10 (stop)", "25%", NASTY.replace("\t", " ")]
    assert cells[10:14] == ["wanda 40%", "no answer ✗", "20 (stop)", "25%, loop 80%"]
    assert cells[24] == "<em>(blank)</em>"
    assert cells[-8:] == ["wanda", "0 of 2", "1 of 2", "1 of 2", "2 of 2", "15", "50%", "40%"]
    quote = re.search("<blockquote>(.*?)</blockquote>", html, flags=re.DOTALL)[1]
    assert unescape(quote.replace("<br>", "\n")).strip() == "<p><strong>Prompt:</strong> Q4|\n- *b*</p>"


def test_long_texts_are_cut_and_control_characters_shown(made):
    made["dense"][0]["text"] = "x" * 61 + "\n" * 3000
    made["rku"][0]["text"] = "\x00\x1b\u202ey"
    text = table5.to_markdown(table5_rows("tiny", made, TABLE), TABLE)
    assert "| " + "x" * 60 + " … (3,001 more characters) |" in text
    assert "| ���y |" in text


def test_tex_is_escaped_and_has_a_row_a_case(made):
    text = table5.to_tex(table5_rows("tiny", made, TABLE), TABLE)
    assert text.count(r"\begin{table*}") == text.count(r"\bottomrule") == 3
    assert text.count(r"\tabularnewline") == 6 + 3
    assert r"a\textbar{}b\textbackslash{}\textbar{}c \textasciigrave{}x\textasciigrave{} **y** \_z\_" in text
    assert r"\_z\_ $<$b$>$\&lt; [l](u)" in text
    assert r"wanda 40\% & none & 20 (stop) & 25\%, loop 80\% & \raggedright w w" in text
    for line in text.splitlines():
        if line.endswith(r"\tabularnewline"):
            assert len(re.findall(r"(?<!\\)&", line)) in (4, 7)
    whole = {**TABLE, "excerpt": 1000}
    assert r"\$1\$\newline \mbox{}\newline \# h" in table5.to_tex(table5_rows("tiny", made, whole), whole)


def write(folder, made, models=("tiny",)) -> Files:
    for model in models:
        for method, content in made.items():
            variant = "dense" if method == "dense" else f"gsm8k-s0/{method}/40"
            artifacts.write_json(folder / f"{model}/{variant}.json", {"cases": content}, "cases", {})
    return Files([f"cases={folder}/{{model}}/{{variant}}.json"])


def test_the_table_has_all_three_forms(tmp_path, made):
    models = ["tiny", "small"]
    page = table5.make(write(tmp_path, made, models), {**TABLE, "models": models})
    frame = pd.read_csv(StringIO(page.frame.to_csv(index=False)))
    assert ",".join(frame.columns) == (
        "model,calib,method,sparsity,item,tokens,finish,repetition,final_loop,format_failure,answer,target,correct,text"
    )
    assert frame["model"].tolist() == ["tiny"] * 6 + ["small"] * 6
    assert frame.loc[1, "text"] == NASTY
    assert frame["answer"].isna().tolist() == [False, False, True, False, False, False] * 2
    assert re.findall("^## .*", page.markdown, flags=re.MULTILINE) == [
        *("## `tiny`, item 4", "## `tiny`, item 9", "## `small`, item 4", "## `small`, item 9"),
        *("## `tiny`, all items", "## `small`, all items"),
    ]
    assert page.tex.count(r"\toprule") == 6


def test_missing_methods_and_other_prompts_are_named(tmp_path, made):
    with pytest.raises(InputError, match=r"wanda/40\.json: no such file"):
        table5.make(write(tmp_path, {name: made[name] for name in ("dense", "rku")}), TABLE)
    made["rku"][1] |= {"prompt": "other"}
    with pytest.raises(InputError, match="tiny, dense and rku were given different items"):
        table5.make(write(tmp_path, made), TABLE)
