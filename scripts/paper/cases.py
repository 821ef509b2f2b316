"""What one model writes for a few records of a data file: its greedy texts, their answers and how far they degenerate.

Settings (JSON): `items`, row numbers of the data file; `prompt` and `target`, templates with the record's fields in
braces; `chat_template`, whether prompts are put in chat format; `tokens` to generate, stopping only at the end token;
`answer_pattern`, a regular expression whose group 1 is the answer, looked for before the first of the strings `until`
(if given) and in the target (a target without it is itself the answer); `dtype`.

Writes cases.json: `cases`, a list of `item`, `prompt`, `target`, `target_answer`, `text`, `tokens` (without the end
token), `finish` (`stop` or `length`), `repetition`, `final_loop`, `format_failure`, `answer` (or null), `correct`.
"""

from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def cases(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the model")],
    manifest: Annotated[Path, typer.Option(help="its manifest.json")],
    data: Annotated[Path, typer.Option(help="parquet of the items' split")],
    output: Annotated[Path, typer.Option(help="cases.json")],
    mask: Annotated[Path | None, typer.Option(help="what to remove from the model, if it is the dense one")] = None,
    compensate: Annotated[str, typer.Option(help="scheme of the mask's method")] = "none",
    evidence: Annotated[Path | None, typer.Option(help="what the compensation is fitted on")] = None,
    adapter: Annotated[Path | None, typer.Option(help="directory of a LoRA adapter to put on the model")] = None,
    threads: int = 1,
) -> None:

    from pruning.core import artifacts
    from pruning.methods.variants import Parts
    from pruning.paper.cases import of_model

    cli.phase("start-up")
    parts = Parts(model, manifest, mask, compensate, evidence, adapter)
    records = of_model(parts, data, settings)
    origin = {**settings, "model": parts.identity(), "data": artifacts.file_hash(data)}
    artifacts.write_json(output, {"cases": records}, "cases", origin)
    for record in records:
        print(f"item {record['item']}: {record['answer']} for {record['target_answer']}, {record['tokens']} tokens")


if __name__ == "__main__":
    cli.run(cases)
