"""The configuration as files: its JSON schema, and YAML with every key explained."""

import json
import re
from typing import Any

import yaml

from pruning.config.base import Strict
from pruning.config.schema import Config


def schema() -> str:
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def commented_yaml(config: Config) -> str:
    """The configuration as YAML. The first section of each kind shows every key with its description as a comment;
    the ones after it show only what was set."""
    return "\n".join(_yaml_lines(config, explained=set(), indent="")) + "\n"


def _yaml_lines(section: Strict, explained: set[type], indent: str) -> list[str]:
    kind, lines = type(section), []
    first = kind not in explained
    explained.add(kind)
    for name, info in kind.model_fields.items():
        value = getattr(section, name)
        if not first and name not in section.model_fields_set:
            continue
        if first and info.description:
            lines.append(f"{indent}# {' '.join(info.description.split())}")
        if isinstance(value, Strict):
            lines += [f"{indent}{name}:", *_yaml_lines(value, explained, indent + "  ")]
        elif isinstance(value, dict) and any(isinstance(v, Strict) for v in value.values()):
            lines.append(f"{indent}{name}:")
            for key, entry in value.items():
                lines += [f"{indent}  {key}:", *_yaml_lines(entry, explained, indent + "    ")]
        else:
            lines.append(f"{indent}{name}: {_yaml_value(value)}")
        if not indent:
            lines.append("")
    return lines


def _yaml_value(value: Any) -> str:
    if isinstance(value, str):  # JSON's quotes are YAML's, and keep line breaks visible
        return value if re.fullmatch(r"[A-Za-z][\w/.-]*", value) else json.dumps(value, ensure_ascii=False)
    flow = yaml.safe_dump(value, width=10_000, allow_unicode=True, default_flow_style=True, sort_keys=False)
    return flow.removesuffix("...\n").strip()
