"""What looks like attention and is not is left alone; attention of no known kind is reported as unrecognised."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from near_misses import NOTHING, UNKNOWN, Net

from trtdeploy.graph.load import load_model
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate


def _blocks(body: Callable[..., Any], path: Path) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Net(body).eval(), (torch.rand(2, 3, 12, 10),), str(path), dynamo=False, opset_version=17,
            input_names=["images"], dynamic_axes={"images": {0: "batch", 2: "height", 3: "width"}},
        )  # fmt: skip
    model = Prepare(verify=False).run(load_model(path).model).model
    _, reports = operate(model, verify=False)
    blocks: list[dict[str, Any]] = next(r for r in reports if r.stage == "FUSE").details["blocks"]
    return blocks


def test_there_are_at_least_twenty_near_misses() -> None:
    assert len(NOTHING) >= 20


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_is_found_in(name: str, tmp_path: Path) -> None:
    assert _blocks(NOTHING[name], tmp_path / "net.onnx") == []


@pytest.mark.parametrize("name", UNKNOWN)
def test_is_reported_as_unrecognised(name: str, tmp_path: Path) -> None:
    blocks = _blocks(UNKNOWN[name], tmp_path / "net.onnx")
    assert [block["kind"] for block in blocks] == ["unrecognised"]
    assert blocks[0]["place"]
