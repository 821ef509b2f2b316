"""Files that were asked for and that nothing makes: which part of the path is wrong, and the nearest that there are."""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches

from pruning.core import names


@dataclass(frozen=True)
class Output:
    """What a rule makes: a path with wildcards in braces, and what those of them that are constrained must match."""

    pattern: str
    constraints: Mapping[str, re.Pattern[str]]

    def values(self, path: str) -> dict[str, str] | None:
        """Of its wildcards, whatever they are, in a path of this form; None for one of another form."""
        found = names.pattern_of(self.pattern).fullmatch(path)
        return found.groupdict() if found else None

    def wrong(self, values: Mapping[str, str]) -> list[str]:
        """The wildcards with values that they cannot have."""
        return [name for name, own in self.constraints.items() if not own.fullmatch(values[name])]


def advice(
    target: str, outputs: Collection[Output], declared: Mapping[str, Collection[str]], plain: Collection[str]
) -> str:
    """What to say of a target that no rule makes; nothing where the mistake is not in the target.

    Args: `declared`: what a wildcard may be, by its name (of `variant`: what its parts may be);
    `plain`: targets without wildcards, rules among them."""
    given = os.path.relpath(target) if os.path.isabs(target) else target
    fits = [(output, values) for output in outputs if (values := output.values(given)) is not None]
    if not fits:
        near = _misspelt(given, outputs) or get_close_matches(given, plain)
        return f"{target}: no such rule, and none makes such a file; nearest: {', '.join(near) or 'none'}"
    # Of the forms that it may have the one with the fewest mistakes, and of these the one that leaves least open.
    output, values = min(fits, key=lambda fit: (len(fit[0].wrong(fit[1])), len("".join(fit[1].values()))))
    wrong = output.wrong(values)
    if not wrong:
        return f"{target}: ask for it by its path from here, {given}" if given != target else ""
    task, _, tuning = values.get("task", "").partition("@")  # as tables name their columns
    recovered = {**values, "task": task, "variant": f"{values.get('variant')}/{tuning}"}
    if tuning and "variant" in values and not output.wrong(recovered):
        nearest = output.pattern.format(**recovered)
        return f"{target}: results of a recovered model lie in a folder of its tuning; nearest: {nearest}"
    said = [f"no {name} {values[name]!r}" for name in wrong]
    near = {name: _near(name, values[name], declared.get(name, ())) for name in wrong}
    near = {name: list(filter(output.constraints[name].fullmatch, found)) for name, found in near.items()}
    if all(near.values()):
        paths = [output.pattern.format(**values | dict(zip(near, found))) for found in zip(*near.values())]  # noqa: B905
        said.append(f"nearest: {', '.join(paths)}")
    else:
        said += [_allowed(output, name, values[name], declared) for name, found in near.items() if not found]
    return f"{target}: {'; '.join(said)}"


def _misspelt(path: str, outputs: Collection[Output]) -> list[str]:
    """Paths like this one with the fixed parts of some rule's, the nearest first."""
    parts, found = path.split("/"), {}
    for output in outputs:
        fixed = output.pattern.split("/")
        pairs = [(mine, own) for mine, own in zip(parts, fixed, strict=False) if "{" not in own]
        likeness = [SequenceMatcher(None, mine, own).ratio() for mine, own in pairs]
        corrected = "/".join(mine if "{" in own else own for mine, own in zip(parts, fixed, strict=False))
        values = output.values(corrected) if len(parts) == len(fixed) and min(likeness, default=0) > 0.5 else None
        if values is not None and not output.wrong(values):
            found[corrected] = sum(likeness) / len(likeness)
    return sorted(found, key=found.__getitem__, reverse=True)[:3]


def _near(name: str, value: str, declared: Collection[str]) -> list[str]:
    if name != "variant":
        return get_close_matches(value, declared, cutoff=0.5)
    parts = [part if part.isdigit() else next(iter(_near("", part, declared)), "") for part in value.split("/")]
    return ["/".join(parts)] if all(parts) else []


def _allowed(output: Output, name: str, value: str, declared: Mapping[str, Collection[str]]) -> str:
    if name == "variant" and value in declared.get(name, ()):  # a part of one, or the dense model where it cannot be
        return "a variant is {calib}/{method}/{sparsity} here, or that and /{tuning}"
    if name in declared:
        return f"declared: {', '.join(sorted(declared[name])[:30])}"
    return f"{name} is of the form {output.constraints[name].pattern}"
