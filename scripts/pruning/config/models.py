"""Dense models: where they come from and what their jobs take."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from pruning.config.base import Alias, Dtype, Of, Positive, Removed, Revision, Strict, fields_of
from pruning.core import names
from pruning.core.names import Variant
from pruning.models import sources


class LocalSource(Strict):
    kind: Literal["local"]
    """`local`: a folder on this machine."""
    path: str
    """Hugging Face model directory with safetensors."""

    @model_validator(mode="after")
    def _shipped(self) -> "LocalSource":
        """A model that the workflow brings along, wherever it runs."""
        if not Path(self.path).exists() and Path(names.own(self.path)).exists():
            self.path = names.own(self.path)
        return self


class HubSource(Strict):
    kind: Literal["hub"]
    """`hub`: downloaded from the Hugging Face Hub."""
    repo: str
    """Repository on the Hugging Face Hub, as `owner/name`."""
    revision: Revision
    """Commit of the repository (40 hex digits); `main` is accepted but does not reproduce."""


class GgufSource(Strict):
    kind: Literal["gguf"]
    """`gguf`: one file of llama.cpp's format, a path here or in an installed package."""
    path: str
    """GGUF file, which is dequantised; inside `package` where one is given."""
    package: str | None = None
    """Installed Python package that ships the file."""
    version: str | None = None
    """Version that `package` must have; any where null."""
    parts: Positive | None = None
    """The file comes in so many parts, which are joined in order: `{part}` in `path` or `package` is 1, 2, …
    (`{part:02}` is 01, 02, …)."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Checksum of the whole file; not checked where null."""
    dtype: Dtype = "float32"
    """What the dequantised weights are stored in."""

    def check(self) -> None:
        if self.version and not self.package:
            raise ValueError("`version` is the version of `package`: give one, or leave `version` out")
        names = [name for text in (self.path, self.package or "") for name in fields_of(text)] if self.parts else []
        if self.parts and set(names) != {"part"}:
            raise ValueError("`parts` needs {part} in `path` or `package`, and no other name in braces")
        sources.locations(self.model_dump())  # raises ValueError where the format after a colon is broken


class PrunedSource(Strict):
    """A compact model of this workflow, to be pruned further: sparsities are still counted against the first one."""

    kind: Literal["pruned"]
    """`pruned`: a model that this workflow has pruned."""
    model: Annotated[Alias, Of("models")]
    """Model that was pruned, an entry of `models`."""
    calib: Annotated[Alias, Of("calibrations")]
    """Calibration that it was pruned with, an entry of `calibrations`."""
    method: Annotated[Alias, Of("methods")]
    """Method that it was pruned with, an entry of `methods`."""
    sparsity: Removed
    """Per cent of its FFN neurons that were removed."""
    tuning: Annotated[Alias | None, Of("tunings")] = None
    """Recovery whose adapter is merged into the weights first."""

    @property
    def variant(self) -> Variant:
        return Variant(self.calib, self.method, self.sparsity, self.tuning)


class Model(Strict):
    source: Annotated[LocalSource | HubSource | GgufSource | PrunedSource, Field(discriminator="kind")]
    """Where the dense model comes from."""
    dtype: Dtype = "float32"
    """Weights and activations at calibration and evaluation."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs a calibration or evaluation job takes; 0 runs on the CPU."""
    threads: Positive = 1
    """CPU threads of such a job (fewer where --cores is less); another number rounds differently."""
    memory_gb: Positive = 2
    """Memory in GB that a calibration or evaluation job takes (CPU side); local runs start no more jobs than fit."""
    offload: bool = False
    """Calibrate with the decoder layers on disk, one in memory at a time, for a model larger than the memory; the
    pruned model is evaluated as a whole."""
    backend: Literal["hf", "vllm"] = "hf"
    """What answers the tasks of lm-eval: `hf`, the model itself, or `vllm`, which wants an environment of its own
    (docs/howto/vllm.md) and GPUs. Perplexities, what models write (Table 5) and all else are the model's own."""
    max_model_len: Positive | None = None
    """Longest prompt and answer, in tokens, that vLLM makes room for; null: the model's context."""
    note: str | None = None
    """What a reader of the tables must know about this model."""

    def check(self) -> None:
        if self.max_model_len and self.backend != "vllm":
            raise ValueError("`max_model_len` is for `backend: vllm`: leave it out, or set that")
