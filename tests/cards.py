"""GPUs that this machine does not have: tensors of `meta:0` and `meta:1` that keep their data on the CPU, and raise
where CUDA would because tensors are on unlike devices. What kernels and memory of a GPU do is not seen.

Not labelled `cuda`, of which autograd wants streams that a CPU's torch has not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

FIRST, SECOND = torch.device("meta", 0), torch.device("meta", 1)
CPU = torch.device("cpu")
BETWEEN = {"_to_copy", "copy_", "set_data", "lift_fresh", "_local_scalar_dense"}
"""Operations that take tensors from one device to another, or to Python."""
INDEXED = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations whose indices may be on the CPU."""


class OnCard(Tensor):
    """A tensor of a card; `here`: the same on the CPU."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor, card: torch.device) -> "OnCard":
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, here.shape, **layout, device=card)
        made.here = here
        return made

    def numpy(self, *_: Any, **__: Any) -> None:
        raise TypeError(f"can't convert {self.device} tensor to numpy")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        return _computed(function, arguments, keywords or {})


class _Cards(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        return _computed(function, arguments, keywords or {})


def _computed(function: Any, arguments: tuple, keywords: dict) -> Any:
    """On the CPU, of what is there; the result is where CUDA would have it."""
    name = function._schema.name.removeprefix("aten::")
    if name in ("to", "cpu"):  # in inference mode
        with _Cards():
            return function.decompose(*arguments, **keywords)
    tensors = [each for each in tree_leaves((arguments, keywords)) if isinstance(each, Tensor)]
    asked = None if keywords.get("device") is None else torch.device(keywords["device"])
    if asked is not None and asked.type == "meta" and asked.index is None:  # without data, as torch means it
        return function(*arguments, **keywords)
    place = asked or _place(name, arguments, tensors)
    if keywords.get("generator") is not None and place.type == "meta":
        raise RuntimeError(f"{name}: a generator of the CPU for a tensor of {place}")
    keywords = {key: CPU if key == "device" and value is not None else value for key, value in keywords.items()}
    plain = tree_map(lambda each: each.here if isinstance(each, OnCard) else each, (arguments, keywords))
    found = function(*plain[0], **plain[1])
    if name.endswith("_") and not name.endswith("__") and isinstance(arguments[0], Tensor):  # in place
        return arguments[0]
    own = {id(each.here): each for each in tensors if isinstance(each, OnCard)}

    def placed(each: Any) -> Any:
        if not isinstance(each, Tensor) or place.type == "cpu":
            return each
        return own[id(each)] if id(each) in own else OnCard(each, place)

    return tree_map(placed, found)


def _place(name: str, arguments: tuple, tensors: list[Tensor]) -> torch.device:
    """Where an operation on these happens. Raises RuntimeError where CUDA would."""
    if name in BETWEEN:
        return arguments[0].device
    if name in INDEXED:
        whole, indices = arguments[0], [each for each in arguments[1] if each is not None]
        values = [each for each in arguments[2:3] if each.dim()]
        tensors = [whole, *values, *(each for each in indices if "put" not in name and each.device != CPU)]
    devices = {each.device for each in tensors if each.dim() or each.device != CPU}
    if len(devices) > 1:
        raise RuntimeError(f"{name}: all tensors must be on the same device, found {sorted(map(str, devices))}")
    return next(iter(devices), CPU)


@contextmanager
def two_cards() -> Iterator[None]:
    """Within it the two are there."""

    def tensor(*arguments: Any, device: Any = None, **keywords: Any) -> Tensor:
        return made(*arguments, **keywords).to(device)  # itself it asks no mode

    made = torch.tensor
    _device_constructors()  # which torch keeps from the first call on, `torch.tensor` among them
    with torch.autograd.set_multithreading_enabled(False), _Cards(), patch("torch.tensor", tensor):
        yield
