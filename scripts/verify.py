"""Walk all of `results`: is every artefact as it was made, where it belongs, and made from what is there now?
Are the columns of tables those that report/columns.yaml describes?

Prints one line per mistake, and exits with 1 if there is one. What was deleted after use (`storage: temp`) is none.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli, names


def verify(results: Annotated[Path, typer.Argument(help="the folder to walk")] = Path("results")) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pruning.core import artifacts, chain, columns

    paths = sorted(p for p in results.rglob("*") if p.suffix in (".parquet", ".json") and p.is_file())
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(results).parts)]
    of_models = {file for path in paths for file in recorded(path)}  # whatever they are, their manifest tells of them
    mistakes, digests, inputs, files = [], {}, {}, 0
    for path in (path for path in paths if path not in of_models):
        try:
            if path.suffix == ".parquet":
                origin = json.loads((pq.read_schema(path).metadata or {}).get(b"provenance", b"{}"))
                content = artifacts.read_table(path, origin.get("kind", ""))
                mistakes += described(path.relative_to(results), columns.of_table(content))
            else:
                content = json.loads(path.read_text(encoding="utf-8"))
                origin = content.get("provenance") if isinstance(content, dict) else None
                if not isinstance(origin, dict) or "kind" not in origin:
                    continue  # not ours
                content = artifacts.read_json(path, origin["kind"])
            if origin["kind"] == "csv":
                for file in (path.with_name(name) for name in content["files"]):
                    if file.is_file():
                        artifacts.check_recorded(file, path)
                        found = columns.of_csv(file) if file.suffix == ".csv" else {}
                        mistakes += described(file.relative_to(results), found) if found else []
            elif path.suffix == ".json" and "files" in content and (directory := folder_of(path, origin)).is_dir():
                there = [name for name in content["files"] if (directory / name).exists()]
                if there or origin["kind"] != "gguf":
                    chain.check_files(directory, path, content, again=True)
                    files += len(content["files"])
        except (cli.InputError, ValueError, OSError, pa.ArrowException) as error:
            broken = f"{path}: not a whole file ({str(error).splitlines()[0]}); delete it and run again"
            mistakes.append(str(error) if isinstance(error, cli.InputError) else broken)
            continue
        place = chain.place(path) or str(path)
        digests[place], inputs[place] = origin["digest"], origin["inputs"]
    links = 0
    for place, read in inputs.items():
        for source, digest in read.items():
            now = digests.get(source) or (None if source.startswith("results/") else chain.content(Path(source)))
            links += now is not None
            if now not in (None, digest):
                made = place.replace(".csv.json", ".csv")  # the record tells of the table
                mistakes.append(f"{made}: was made from another {source}; delete it and run again")
    for mistake in mistakes:
        print(f"error: {mistake}")
    print(f"{len(digests)} artefacts, {files} files of models and moments, {links} links: {len(mistakes)} mistakes")
    if mistakes:
        sys.exit(1)


def described(path: Path, found: dict) -> list[str]:
    """A line per column of a file below results/ that is not as report/columns.yaml says; none for files of others."""
    from pruning.core import columns

    entry = columns.entry_of(str(path))
    return [f"{path}: {mistake} (report/columns.yaml)" for mistake in (entry.mistakes(found) if entry else [])]


def folder_of(manifest: Path, origin: dict) -> Path:
    """Where the files lie that a manifest records."""
    kind = origin.get("kind", "")
    if kind.endswith((*names.MATRICES, "refit", "hidden_states")):
        return manifest.with_suffix("")
    return manifest.parent / "model" if kind == "compact" else manifest.parent


def recorded(path: Path) -> list[Path]:
    """The files that this one is the manifest of, if it is one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else {}
        return [folder_of(path, content["provenance"]) / name for name in content["files"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


if __name__ == "__main__":
    typer.run(verify)
