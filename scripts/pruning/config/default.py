"""The embedded default, config/config.yaml, for what needs it outside of a run of the workflow."""

import yaml

from pruning.config.schema import Config
from pruning.core import names

DEFAULT = Config.model_validate(yaml.safe_load((names.HOME / "config/config.yaml").read_text(encoding="utf-8")))
