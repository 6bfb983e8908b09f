"""Builds of torchvision without its C++ operators still import open_clip if these two names exist."""

import contextlib

import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms(", "qnms("):
    with contextlib.suppress(RuntimeError):
        library.define(f"{name}Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
