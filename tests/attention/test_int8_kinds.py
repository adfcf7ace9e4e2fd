"""INT8 around every kind of tier 1: TensorRT-RTX's real builder accepts it, the attention is left alone."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from catalogue_checks import images, make, session_of

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind
from trtdeploy.backends.rtx_probe import ShapeRange, probe_build
from trtdeploy.graph.load import load_model
from trtdeploy.graph.observe import Observer
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.int8 import ToInt8, tensors_to_calibrate
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate

KINDS = [kind for kind in catalogue.kinds() if kind.tier == 1]
HAS_RTX = importlib.util.find_spec("tensorrt_rtx") is not None


class Between(torch.nn.Module):
    """A module with two convolutions before it and two behind: of each the outer one is the network's first or last."""

    def __init__(self, module: torch.nn.Module, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.first = torch.nn.ModuleList(torch.nn.Conv2d(3, count, 5, padding=2) for count in channels)
        self.before = torch.nn.ModuleList(torch.nn.Conv2d(count, count, 3, padding=1) for count in channels)
        self.module = module
        self.after = torch.nn.ModuleList(torch.nn.Conv2d(count, count, 3, padding=1) for count in channels)
        self.last = torch.nn.ModuleList(torch.nn.Conv2d(count, 32, 1) for count in channels)

    def forward(self, *maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        silu = torch.nn.functional.silu
        inner = [silu(b(silu(a(m)))) for a, b, m in zip(self.first, self.before, maps, strict=True)]
        results = self.module(*inner)
        results = results if isinstance(results, tuple | list) else (results,)
        return tuple(b(silu(a(m))) for a, b, m in zip(self.after, self.last, results, strict=True))


def exported(kind: AttentionKind, folder: Path) -> tuple[Path, list[torch.Tensor]]:
    case = kind.cases[0]
    channels = case.channels if isinstance(case.channels, tuple) else (case.channels,)
    torch.manual_seed(3)
    network = Between(make(kind, case), channels).eval()
    maps = [m[:, :1].expand(-1, 3, -1, -1).contiguous() for m in images(case, (2, 8, 8))]
    inputs, outputs = ([f"{letter}{i}" for i in range(len(maps))] for letter in "xy")
    axes = {name: {0: "batch", 2: f"height_{name}", 3: f"width_{name}"} for name in (*inputs, *outputs)}
    path = folder / f"{kind.name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, tuple(maps), str(path), dynamo=False, opset_version=17,
            input_names=inputs, output_names=outputs, dynamic_axes=axes,
        )  # fmt: skip
    return path, maps


def open_shapes(maps: list[torch.Tensor]) -> dict[str, ShapeRange]:
    """Return a profile of batch 1 to 4 and three sizes."""
    shapes: dict[str, ShapeRange] = {}
    for index, example in enumerate(maps):
        height, width = (side // 8 for side in example.shape[2:])
        shapes[f"x{index}"] = (
            (1, 3, 8 * height, 8 * width), (2, 3, 16 * height, 16 * width), (4, 3, 32 * height, 32 * width)
        )  # fmt: skip
    return shapes


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_convolutions_around_attention_are_int8(kind: AttentionKind, tmp_path: Path) -> None:
    path, maps = exported(kind, tmp_path)
    model, _ = operate(Prepare(verify=False).run(load_model(path).model).model, verify=False)
    feeds = {f"x{i}": m.numpy() for i, m in enumerate(maps)}
    names = tensors_to_calibrate(model)
    measured = Observer(model, names, extremes_only=True).run(feeds)
    result = ToInt8({name: float(np.abs(values).max()) for name, values in measured.items()}).run(model)
    layers = {entry["layer"]: entry for entry in result.report.details["layers"]}
    for place in ("before", "after"):
        assert all(entry["int8"] for name, entry in layers.items() if f"/{place}." in name)
    inside = [entry for name, entry in layers.items() if name.startswith("/module/") or "trtdeploy" in name.lower()]
    assert not any(entry["int8"] for entry in inside if entry["reason"] == "attention block")

    both = ToFp16().run(result.model).model
    proto = ir.to_proto(both)
    onnx.checker.check_model(proto)
    compare(path, [ir.to_proto(result.model), proto], feeds)
    if HAS_RTX:
        facts = probe_build(proto.SerializeToString(), open_shapes(maps))
        int8 = [kernel for kernel in facts.kernel_list if "Int8" in kernel.inputs and kernel.kind == "correlation"]
        assert len(int8) >= 2 * len(maps)


def compare(path: Path, changed: list[onnx.ModelProto], feeds: dict[str, Any]) -> None:
    """Check that ONNX Runtime's results of changed models are near those of the original.

    It does not turn Q/DQ into operators of its own here: it would give QLinearConcat FP16 scales, which that refuses.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    expected = session_of(path).run(None, feeds)
    for model in changed:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for wanted, got in zip(expected, session.run(None, feeds), strict=True):
            error = np.sqrt(((wanted - got) ** 2).mean()) / wanted.std(axis=(0, 2, 3)).mean()
            assert error < 0.1
