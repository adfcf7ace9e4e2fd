"""torchvision without its compiled extension, which does not load beside the CPU build of torch.

The operators that detectors need are registered in Python under the names under which torchvision calls them; models,
transforms and ONNX symbolics are torchvision's own.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch

_library: Any = None


def import_torchvision() -> Any:
    """Import torchvision, with operators in Python where its own do not load."""
    global _library  # noqa: PLW0603 - torch wants the registrations to live as long as the process
    if _library is None and not _own_operators_load():
        _library = torch.library.Library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define(
            "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
            "int sampling_ratio, bool aligned) -> Tensor"
        )
        _library.impl("nms", greedy_nms, "CPU")
        _library.impl("roi_align", roi_align, "CPU")
        import torchvision

        for name, module in list(sys.modules.items()):
            if name.startswith("torchvision.") and hasattr(module, "_has_ops"):
                module._has_ops = _has_ops
    import torchvision

    return torchvision


def _has_ops() -> bool:
    """Say what torchvision asks before it calls an operator; torch.jit compiles this."""
    return True


def _own_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    folder = spec.submodule_search_locations[0] if spec is not None and spec.submodule_search_locations else ""
    try:
        torch.ops.load_library(f"{folder}/_C.so")
    except OSError:
        return False
    return True


def greedy_nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Keep the best box, drop what overlaps it, and so on. `[N, 4]` and `[N]` to indices, best first."""
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order].double()
    low = torch.maximum(sorted_boxes[:, None, :2], sorted_boxes[None, :, :2])
    high = torch.minimum(sorted_boxes[:, None, 2:], sorted_boxes[None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area = (sorted_boxes[:, 2:] - sorted_boxes[:, :2]).prod(-1)
    too_close = overlap > iou_threshold * (area[:, None] + area[None] - overlap)
    alive = torch.ones(len(order), dtype=torch.bool)
    for row in range(len(order)):
        if alive[row]:
            alive[row + 1 :] &= ~too_close[row, row + 1 :]
    return order[alive]


def roi_align(
    maps: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """Average bilinear samples in each bin (He et al., "Mask R-CNN", 2017, section 3).

    `[B, C, H, W]` and `[K, 5]`, rows of image, left, top, right, bottom, to `[K, C, pooled_height, pooled_width]`.
    """
    if sampling_ratio < 1:
        raise NotImplementedError("roi_align: only with a fixed sampling ratio")
    if not len(rois):
        return maps.new_zeros(0, maps.shape[1], pooled_height, pooled_width)
    shift = 0.5 if aligned else 0.0
    left, top, right, bottom = (rois[:, 1:] * spatial_scale - shift).unbind(1)
    width, height = right - left, bottom - top
    if not aligned:
        width, height = width.clamp(min=1), height.clamp(min=1)
    y = _sample_points(top, height, pooled_height, sampling_ratio)
    x = _sample_points(left, width, pooled_width, sampling_ratio)
    rows, columns = (_weights(p, size) for p, size in ((y, maps.shape[2]), (x, maps.shape[3])))
    out = []
    for first in range(0, len(rois), 64):
        some = slice(first, first + 64)
        across = torch.einsum("kchw,kxw->kchx", maps[rois[some, 0].long()], columns[some])
        out.append(torch.einsum("kyh,kchx->kcyx", rows[some], across))
    bins = torch.cat(out).unflatten(2, (pooled_height, sampling_ratio)).unflatten(4, (pooled_width, sampling_ratio))
    return bins.mean((3, 5))


def _sample_points(start: torch.Tensor, length: torch.Tensor, bins: int, per_bin: int) -> torch.Tensor:
    """Return the `[K, bins * per_bin]` positions of samples along one side."""
    steps = (torch.arange(bins * per_bin, dtype=start.dtype) + 0.5) / (bins * per_bin)
    return start[:, None] + length[:, None] * steps


def _weights(points: torch.Tensor, size: int) -> torch.Tensor:
    """Return the `[K, P, size]` weights of bilinear interpolation; points more than one pixel outside get none."""
    inside = (points >= -1) & (points <= size)
    near = points.clamp(0, size - 1)
    distance = (near[..., None] - torch.arange(size, dtype=points.dtype)).abs()
    return (1 - distance).clamp(min=0) * inside[..., None]
