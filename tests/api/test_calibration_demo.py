"""The packaged model, through the passes of a build, calibrated on drawn boards."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import inliner

from trtdeploy.api.calibration import CalibrationOptions, calibrate_model, calibration_feeds
from trtdeploy.api.passes import Passes
from trtdeploy.core.preprocess import Preprocess
from trtdeploy.core.types import Size
from trtdeploy.graph.head import AppendHead, HeadOptions, NmsOptions
from trtdeploy.graph.load import load_model
from trtdeploy.graph.precision.int8 import tensors_to_calibrate
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.shapes import SetShapes, parse_imgsz
from trtdeploy.graph.shapes.image_input import find_image_input
from trtdeploy.quantize import METHODS
from trtdeploy.scenes.circuit_boards import CircuitBoardScene

SIZE = Size(320, 320)


@pytest.fixture(scope="module")
def demo(demo_model: Path) -> tuple[ir.Model, Preprocess]:
    passes = Passes(load_model(demo_model).model, lambda _name: None)
    passes.run(Prepare(verify=False))
    passes.run(SetShapes(parse_imgsz("320"), None))
    head = passes.run(AppendHead(HeadOptions.parse("auto"), NmsOptions(), None, "fixpoint"))
    passes.operate(pad=True, verify=False)
    return passes.model, Preprocess(**head["preprocess"])


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boards")
    scene = CircuitBoardScene(77, width=64, height=64)
    for index in range(4):
        assert cv2.imwrite(str(folder / f"{index}.png"), scene.sample(index, width=400, height=300)[0])
    return folder


def test_ranges_are_those_that_onnx_runtime_shows_of_the_inlined_model(
    demo: tuple[ir.Model, Preprocess], boards: Path
) -> None:
    model, preprocess = demo
    wanted = tensors_to_calibrate(model)
    options = CalibrationOptions(images=boards, method="minmax")
    found = calibrate_model(model, wanted, options, preprocess, SIZE)
    assert set(found.ranges) == set(wanted)
    assert len(wanted) > 50

    proto = inliner.inline_local_functions(ir.to_proto(model))
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict.fromkeys(wanted, 0.0)
    for given in calibration_feeds(options, find_image_input(model), preprocess, SIZE):
        for name, values in zip(wanted, session.run(None, given), strict=True):
            expected[name] = max(expected[name], float(np.abs(values).max()))
    assert found.ranges == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"minmax"}))
def test_every_method_clips_some_tensors_and_none_to_nothing(
    demo: tuple[ir.Model, Preprocess], boards: Path, method: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model, preprocess = demo
    wanted = tensors_to_calibrate(model)
    cache = tmp_path_factory.getbasetemp() / "cache of histograms"
    options = CalibrationOptions(images=boards, method=method, cache=cache)
    found = calibrate_model(model, wanted, options, preprocess, SIZE).ranges
    peaks = calibrate_model(model, wanted, CalibrationOptions(images=boards, method="minmax"), preprocess, SIZE).ranges
    shares = np.array([found[name] / peaks[name] for name in wanted])
    assert (shares <= 1 + 1e-9).all()
    assert (shares > 0.02).all()
    assert (shares < 0.999).any()
