"""What each backend makes of BF16."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import tiny_detector as tiny

from trtdeploy.backends import openvino, registry, tensorrt
from trtdeploy.backends.base import SessionOptions
from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import Precision
from trtdeploy.engine.sniff import read_info

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None


def test_onnxruntime_refuses_it_and_says_what_does_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no BF16 on a CPU.*--fp16.*openvino.*emulated"):
        registry.get("onnxruntime").build(tiny.detector(), tiny.info("onnxruntime", "bf16"), tmp_path / "x.engine")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")
@pytest.mark.parametrize(
    ("cpu", "precision", "expected"),
    [
        ("bf16", Precision.BF16, "bf16"),
        ("f16", Precision.BF16, None),
        (None, Precision.BF16, None),
        ("f16", Precision.FP16, "f16"),
        ("bf16", Precision.FP16, "bf16"),
        ("bf16", Precision.FP32, None),
        ("bf16", Precision.INT8, None),
    ],
)
def test_openvino_takes_it_where_the_cpu_has_it(
    monkeypatch: pytest.MonkeyPatch, cpu: str | None, precision: Precision, expected: str | None
) -> None:
    monkeypatch.setattr(openvino, "native_half", lambda: cpu)
    assert openvino._half_of(precision) == expected
    if precision is Precision.BF16:
        note = registry.get("openvino").precision_note(precision)
        assert ("This CPU has it" if expected else "This CPU has none") in note


@pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed")
def test_openvino_runs_an_engine_with_weights_in_fp32(tmp_path: Path) -> None:
    path, backend = tmp_path / "x.engine", registry.get("openvino")
    backend.build(tiny.detector(), tiny.info("openvino", "bf16"), path)
    info = read_info(path)
    session = backend.open(path, info, SessionOptions())
    found = session.create_context().infer(tiny.images(3))
    assert np.isfinite(found["boxes"]).all()
    plain = tmp_path / "plain.engine"
    backend.build(tiny.detector(), tiny.info("openvino", "fp32"), plain)
    assert abs(path.stat().st_size - plain.stat().st_size) < 1000


def test_plugins_of_tensorrt_have_no_kernels_for_it() -> None:
    reason = tensorrt._why_no_plugins(tiny.detector(), (10, 16), Precision.BF16)
    assert reason == "The kernels of the plugins take FP16 and FP32, not BF16."


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_plans_say_what_it_means(name: str) -> None:
    assert "BF16 in the graph" in registry.get(name).precision_note(Precision.BF16)
