"""The trained YOLOv12m with area attention that helmet-detector carries, loaded without running its pickle's code."""

from __future__ import annotations

from typing import Any

import torch
from calibrated import import_ultralytics
from real_photos import package_folder
from torch import nn

MODULES = {
    "torch.nn.modules.activation": ("SiLU",),
    "torch.nn.modules.batchnorm": ("BatchNorm2d",),
    "torch.nn.modules.container": ("ModuleList", "Sequential"),
    "torch.nn.modules.conv": ("Conv2d",),
    "torch.nn.modules.linear": ("Identity",),
    "torch.nn.modules.upsampling": ("Upsample",),
    "ultralytics.nn.modules.block": ("A2C2f", "AAttn", "ABlock", "Bottleneck", "C3k", "C3k2", "DFL"),
    "ultralytics.nn.modules.conv": ("Concat", "Conv", "DWConv"),
    "ultralytics.nn.modules.head": ("Detect",),
    "ultralytics.nn.tasks": ("DetectionModel",),
}
"""Every class that the checkpoint may name."""


class SplitAreaAttention(nn.Module):
    """Area attention (YOLOv12, arXiv 2502.12524) whose queries and keys have one projection and values another.

    The authors' own code saved this layout; current Ultralytics has a single projection and cannot run it.
    """

    def __init__(self, saved: Any) -> None:
        super().__init__()
        self.qk, self.v, self.pe, self.proj = saved.qk, saved.v, saved.pe, saved.proj
        self.area, self.heads = saved.area, saved.num_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        v_map = self.v(x)
        # Channels last, then tokens cut into areas: attention stays within an area.
        q, k = self._areas(self.qk(x)).split(channels, -1)
        q, k, v = (self._heads(t) for t in (q, k, self._areas(v_map)))
        weights = (q @ k.transpose(-2, -1) * (channels // self.heads) ** -0.5).softmax(-1)
        tokens = (weights @ v).transpose(1, 2).reshape(batch, height * width, channels)
        attended = tokens.transpose(1, 2).reshape(batch, channels, height, width)
        out: torch.Tensor = self.proj(attended + self.pe(v_map))
        return out

    def _areas(self, x: torch.Tensor) -> torch.Tensor:
        """Cut `[B, C, H, W]` into `[B * areas, tokens, C]`."""
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        return tokens.reshape(batch * self.area, height * width // self.area, channels)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """Cut `[A, tokens, C]` into `[A, heads, tokens, C / heads]`."""
        areas, tokens, channels = x.shape
        return x.view(areas, tokens, self.heads, channels // self.heads).transpose(1, 2)


def helmet_wrapper() -> Any:
    """Return the trained network in an Ultralytics `YOLO`, in evaluation mode, float32."""
    ultralytics = import_ultralytics()
    allowed = [
        getattr(__import__(module, fromlist=[name]), name) for module, names in MODULES.items() for name in names
    ]
    path = package_folder("helmet_detector_pkg") / "weights" / "best.pt"
    with torch.serialization.safe_globals(allowed):
        model = torch.load(path, map_location="cpu", weights_only=True)["model"].float().eval()
    for block in [m for m in model.modules() if type(m).__name__ == "ABlock"]:
        block.attn = SplitAreaAttention(block.attn)
    wrapper = ultralytics.YOLO("yolov8n.yaml")
    model.task = "detect"
    wrapper.model = model
    return wrapper
