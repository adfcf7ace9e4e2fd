"""An exported file does what the model does, at every opset and with both exporters; otherwise nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from trtdeploy.core.errors import GateError, ModelError, UsageError
from trtdeploy.export.options import EXPORTERS, Exporter, ExportOptions, Subject
from trtdeploy.export.write import export_model
from trtdeploy.models.insert import insert

ORT_OPSET = onnx.defs.onnx_opset_version()


class Small(nn.Module):
    """What exporters find hard in a small space: shapes, splits, hard swish, normalisation, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8)
        self.layer_norm = nn.LayerNorm(8)
        self.act = nn.Hardswish()
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        first, second = x.chunk(2, 1)
        x = self.up(torch.cat([second, first.mean((2, 3), keepdim=True) + first], 1))
        return self.layer_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).flatten(2)


def _small() -> nn.Module:
    torch.manual_seed(0)
    model = Small().eval()
    insert(model, "coordatt", "norm")
    return model


@pytest.mark.parametrize("opset", range(13, 25))
def test_torchscript_at_every_opset(tmp_path: Path, opset: int) -> None:
    _check_export(tmp_path, "torchscript", opset)


@pytest.mark.parametrize("opset", [13, 18, 22])
def test_dynamo(tmp_path: Path, opset: int) -> None:
    _check_export(tmp_path, "dynamo", opset)


def _check_export(tmp_path: Path, exporter: Exporter, opset: int) -> None:
    """Export and compare with torch here, at a shape that the export did not see."""
    if opset > ORT_OPSET:
        pytest.skip("onnx does not know this opset")
    model, path = _small(), tmp_path / "model.onnx"
    report = export_model(Subject(model=model), path, ExportOptions(exporter=exporter, opset=opset))
    assert [e.version for e in onnx.load(path).opset_import if e.domain in {"", "ai.onnx"}] == [opset]
    assert report.inputs == ("images [batch, 3, height, width]",)
    assert [(a.path, a.kind) for a in report.attention] == [("norm.attention", "CoordAtt")]
    assert report.attention[0].node_count >= 8
    x = torch.rand(4, 3, 64, 96)
    (got,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"images": x.numpy()})
    np.testing.assert_allclose(got, model(x).detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_fixed_shape(tmp_path: Path, exporter: Exporter) -> None:
    options = ExportOptions(exporter=exporter, dynamic=False, shape=(1, 64, 32))
    report = export_model(Subject(model=_small()), tmp_path / "m.onnx", options)
    assert report.inputs == ("images [1, 3, 64, 32]",)
    assert report.outputs == ("output0 [1, 8, 2048]",)


class Stuck(nn.Module):
    """A model whose trace remembers the height of the traced image."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.shape[2])


class Random(nn.Module):
    """A model that torch itself does not repeat."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float(torch.rand(()).item())


class Notional(nn.Module):
    """A model that returns no number in places."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x - 0.5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Stuck(), "differs from torch by .* of its channel's largest value.*not written"),
        (Random(), "differs from torch"),
        (Notional(), "values that are not finite in torch"),
    ],
)
def test_a_file_that_differs_is_not_written(tmp_path: Path, model: nn.Module, words: str) -> None:
    with pytest.raises(GateError, match=words):
        export_model(Subject(model=model), tmp_path / "m.onnx", ExportOptions())
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match=r"exists\. Use --force"):
        export_model(Subject(model=_small()), path, ExportOptions())
    with pytest.raises(GateError):
        export_model(Subject(model=Stuck()), path, ExportOptions(force=True))
    assert path.read_bytes() == b"old"
    export_model(Subject(model=_small()), path, ExportOptions(force=True))
    assert onnx.load(path).producer_name == "trtdeploy"


class KeepingAxis(nn.Module):
    """Adaptive pools that keep an axis, as modules."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveMaxPool2d((1, None))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rows(x) * self.columns(x)


class KeepingAxisByFunction(nn.Module):
    """The same as a function, which nobody can replace."""

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.adaptive_avg_pool2d(x, (None, 1))


def test_adaptive_pools_that_keep_an_axis_become_means(tmp_path: Path) -> None:
    report = export_model(Subject(model=KeepingAxis()), tmp_path / "m.onnx", ExportOptions())
    assert report.notes == (
        "rows: AdaptiveAvgPool2d((None, 1)) became the mean over axis 3.",
        "columns: AdaptiveMaxPool2d((1, None)) became the maximum over axis 2.",
    )


def test_adaptive_pools_called_as_functions_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"write x.mean\(3, keepdim=True\) in its place"):
        export_model(Subject(model=KeepingAxisByFunction()), tmp_path / "m.onnx", ExportOptions())


class StaysInTraining(nn.Module):
    """A model that does not take evaluation mode to its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def train(self, mode: bool = True) -> Any:
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class TurnsTrainingOn(nn.Module):
    """A model that normalises by the image's own statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)


def test_models_in_training_mode_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Module norm stays in training mode"):
        export_model(Subject(model=StaysInTraining()), tmp_path / "m.onnx", ExportOptions())
    with pytest.raises(ModelError, match="is a BatchNormalization in training mode"):
        export_model(Subject(model=TurnsTrainingOn()), tmp_path / "m.onnx", ExportOptions())


def test_the_model_itself_stays_as_it_is(tmp_path: Path) -> None:
    model = _small().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    export_model(Subject(model=model), tmp_path / "m.onnx", ExportOptions())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_several_outputs_are_named_and_open_where_they_vary(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"maps": [x[:, :1], x.flatten(2)], "mean": x.mean((2, 3))}

    report = export_model(Subject(model=Two(), output_names=("map",)), tmp_path / "m.onnx", ExportOptions())
    assert report.outputs == ("map [batch, 1, map_2, map_3]", "output1 [batch, 3, output1_2]", "output2 [batch, 3]")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"exporter": "pickle"}, "no exporter 'pickle'"),
        ({"opset": 12}, "Opset 12 is not supported. Give 13 to 24"),
        ({"shape": (0, 64, 64)}, "each at least 1"),
        ({"check_shapes": ((1, 64, 64),)}, "two shapes other than the traced one"),
        ({"tolerance": 1.5}, "between 0 and 1"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ExportOptions(**wrong)
