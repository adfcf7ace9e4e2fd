"""Write a detector as ONNX and check the file against torch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from trtdeploy.models.yolo import STRIDES, YOLO

OPSET = 17


def write_onnx(model: YOLO, path: Path, names: Sequence[str], *, image_size: int = 640) -> None:
    """Write the inference graph with dynamic batch, height and width.

    Args:
        model: Network; its mode and device are left as they are.
        path: File to write; its folder must exist.
        names: Class names in the order of their ids.
        image_size: Usual longer side in pixels, for the metadata. Default 640.

    Raises:
        ValueError: If the number of names differs from the network's classes.
    """
    if len(names) != model.options.class_count:
        raise ValueError(f"write_onnx: got {len(names)} names for {model.options.class_count} classes.")
    training = model.training
    model.eval()
    example = torch.zeros(1, 3, 64, 96, device=next(model.parameters()).device)
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", 2: "anchors"}}
    try:
        with warnings.catch_warnings():
            # the tracing exporter is the one that writes opset 17 directly; its deprecation is known
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (example,), str(path), input_names=["images"], output_names=["output0"],
                dynamic_axes=axes, opset_version=OPSET, dynamo=False,
            )  # fmt: skip
    finally:
        model.train(training)
    _finish(path, names, image_size)


def verify_onnx(model: YOLO, path: Path, shapes: Sequence[tuple[int, int, int]]) -> float:
    """Compare ONNX Runtime with torch on random images.

    Args:
        model: Network that was written.
        path: ONNX file.
        shapes: Batch, height and width of each comparison.

    Returns:
        The largest difference, boxes divided by the image's longer side, scores as they are.
    """
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    training = model.training
    model.eval()
    worst = 0.0
    for batch, height, width in shapes:
        images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
        with torch.no_grad():
            expected = model(images.to(next(model.parameters()).device)).cpu().numpy()
        difference = np.abs(session.run(None, {"images": images.numpy()})[0] - expected)
        difference[:, :4] /= max(height, width)
        worst = max(worst, float(difference.max()))
    model.train(training)
    return worst


def _finish(path: Path, names: Sequence[str], image_size: int) -> None:
    """State the output's channels, which tracing loses, and add the metadata."""
    graph = onnx.load(str(path))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4 + len(names)
    graph.producer_name = "trtdeploy"
    onnx.helper.set_model_props(
        graph,
        {
            "names": str(dict(enumerate(names))),
            "stride": str(max(STRIDES)),
            "task": "detect",
            "imgsz": str([image_size, image_size]),
            "batch": "1",
        },
    )
    onnx.checker.check_model(graph)
    onnx.save(graph, str(path))
