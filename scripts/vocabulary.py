"""Choose the tokens that stay in a smaller vocabulary: one row per kept token."""

from collections import Counter

from pruning.core import cli


def vocabulary(settings: cli.Settings, model: cli.Model, data: cli.Data, output: cli.Output) -> None:
    """Settings: `prompt` and `completion`, templates of the text; `vocabulary`, the method's."""
    import pandas as pd

    from pruning.core import artifacts
    from pruning.data import text
    from pruning.models.vocabulary import Tokenizer

    cli.phase("start-up")
    documents = text.documents(data, settings["prompt"], settings["completion"])
    tokenizer = Tokenizer(model)
    counts = Counter(number for part in zip(*documents, strict=True) for number in tokenizer.encoded(part))
    kept = tokenizer.keep(settings["vocabulary"], counts)
    frame = pd.DataFrame({"token": list(kept), "text": [tokenizer.texts.get(number) for number in kept]})
    frame = frame.assign(why=list(kept.values()), count=[counts[number] for number in kept])
    artifacts.write_parquet(output, frame, "vocabulary", settings)
    covered = frame["count"].sum() / max(counts.total(), 1)
    print(f"{len(kept):,} of {tokenizer.size:,} tokens kept, which are {covered:.2%} of those of the calibration data")
    print(frame["why"].value_counts().to_string())


if __name__ == "__main__":
    cli.run(vocabulary)
