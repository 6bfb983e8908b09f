"""The towers without their numbers, for weights that are read from a file."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from diptych.models.towers.clip import Clip
from diptych.models.towers.config import ClipConfig


class _Unfilled(TorchFunctionMode):
    """Leaves out the layers' own initialisation: on the meta device it imports 800 modules of torch, 1 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(config: ClipConfig) -> Clip:
    """Return a model on the meta device, to be filled with ``load_state_dict(..., assign=True)``."""
    with torch.device("meta"), _Unfilled():
        return Clip(config)
