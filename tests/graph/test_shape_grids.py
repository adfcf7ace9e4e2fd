"""Baked grids: recognised when they are grids, made again for other sizes, and left alone when anything is off."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trtdeploy.graph.emit import Emitter
from trtdeploy.graph.shapes.constants import baked_size
from trtdeploy.graph.shapes.grids import Grid, recognise
from trtdeploy.graph.shapes.probes import Probe
from trtdeploy.graph.shapes.reshape import solve_reshape

STRIDES = (8, 16, 32)
PROBES = [Probe(1, 160, 224), Probe(3, 160, 224), Probe(1, 192, 224), Probe(1, 160, 288), Probe(5, 256, 384)]


def _centres(height: int, width: int, pixels: bool = False, offset: float = 0.5) -> NDArray[np.float32]:
    """Return `[1, 2, A]` centres (x, y) of the cells of three levels."""
    parts = []
    for stride in STRIDES:
        y, x = np.mgrid[: height // stride, : width // stride].reshape(2, -1)
        parts.append((np.stack([x, y]) + offset) * (stride if pixels else 1))
    return np.concatenate(parts, 1)[None].astype(np.float32)


def _strides(height: int, width: int) -> NDArray[np.float32]:
    counts = [(height // stride) * (width // stride) for stride in STRIDES]
    return np.repeat(np.array(STRIDES, np.float32), counts)[None]


def _cells() -> tuple[int, ...]:
    return tuple(sum((p.height // s) * (p.width // s) for s in STRIDES) for p in PROBES)


def _emitted(grid: Grid, height: int, width: int) -> Any:
    emit = Emitter(17, "t")
    image = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 3, "h", "w"]))
    shape = emit.shape(image)
    result = grid.emit(emit, emit.slice(shape, 2, 3, axis=0), emit.slice(shape, 3, 4, axis=0), ir.DataType.FLOAT)
    result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None] * grid.ndim)
    graph = ir.Graph([image], [result], nodes=[], opset_imports={"": 17}, name="g")
    emit.append_to(graph)
    proto = ir.to_proto(ir.Model(graph, ir_version=9))
    session = ort.InferenceSession(proto.SerializeToString())
    return session.run(None, {"x": np.zeros((1, 3, height, width), np.float32)})[0]


@pytest.mark.parametrize("pixels", [False, True], ids=["grid-units", "pixels"])
@pytest.mark.parametrize("offset", [0.0, 0.5, -0.5])
def test_centres_are_made_again_exactly(pixels: bool, offset: float) -> None:
    grid = recognise(_centres(160, 224, pixels, offset), [2], [_cells()], PROBES)
    assert grid is not None
    for height, width in ((160, 224), (96, 320), (640, 32)):
        expected = _centres(height, width, pixels, offset)
        np.testing.assert_array_equal(_emitted(grid, height, width), expected)
        np.testing.assert_array_equal(grid.evaluate(height, width), expected)


def test_strides_are_made_again() -> None:
    grid = recognise(_strides(160, 224), [1], [_cells()], PROBES)
    assert grid is not None
    np.testing.assert_array_equal(_emitted(grid, 96, 320), _strides(96, 320))


def test_levels_in_descending_order_are_recognised() -> None:
    backwards = np.concatenate(np.split(_strides(160, 224)[0], [560, 700])[::-1])[None]
    grid = recognise(backwards, [1], [_cells()], PROBES)
    assert grid is not None
    assert [level.stride for level in grid.levels] == [32, 16, 8]


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda c: c + np.float32(0.3), "an offset that is no half cell"),
        (lambda c: c / np.array([28, 20], np.float32).reshape(1, 2, 1), "a normalised grid"),
        (lambda c: c * np.float32(1.1), "a slope that is neither 1 nor the stride"),
        (lambda c: c[:, ::-1] * np.array([1, 0], np.float32).reshape(1, 2, 1) + c[:, ::-1], "a doubled slope"),
        (lambda c: np.random.default_rng(0).permuted(c, axis=2), "cells in another order"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_grid_is_not_recognised(spoil: Any, what: str) -> None:
    assert recognise(spoil(_centres(160, 224)), [2], [_cells()], PROBES) is None, what


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 2 * 735 - 1), change=st.sampled_from([0.25, -1.0, 8.0]))
def test_one_wrong_cell_is_enough_to_refuse(position: int, change: float) -> None:
    centres = _centres(160, 224)
    centres.reshape(-1)[position] += change
    assert recognise(centres, [2], [_cells()], PROBES) is None


@pytest.mark.parametrize(
    ("old", "new", "free", "expected"),
    [
        (["b", 144, "h", "w"], [1, 144, 560], None, ["b", 144, "hw"]),
        (["b", 255, "h", "w"], [1, 3, 85, 20, 28], None, ["b", 3, 85, "h", "w"]),
        (["b", 3, "h", "w", 85], [1, 1680, 85], None, ["b", "3hw", 85]),
        (["b", 64, "hw"], [1, 4, 16, 560], None, ["b", 4, 16, "hw"]),
        (["b", 64, "hw"], [1, 64, 20, 28], None, ["b", 64, "h", "w"]),
        (["b", "hw", 64], [4, 140, 64], None, None),
        (["b", "hw", 64], [4, -1, 64], 1, ["4b", "hw/4", 64]),
        (["b", "h", "w", 64], [1, 20, 14, 2, 64], None, None),
    ],
    ids=[
        "flatten",
        "anchors",
        "join",
        "bins",
        "unflatten",
        "areas-uncertain",
        "areas-with-minus-one",
        "windows-uncertain",
    ],
)
def test_a_baked_reshape_has_one_reading_or_none(old: Any, new: Any, free: Any, expected: Any) -> None:
    h, w = ([p.height // 8 for p in PROBES], [p.width // 8 for p in PROBES])
    b = [p.batch for p in PROBES]
    known = {
        "b": b, "h": h, "w": w, "hw": [x * y for x, y in zip(h, w, strict=True)], "4b": [4 * x for x in b],
        "3hw": [3 * x * y for x, y in zip(h, w, strict=True)], "hw/4": [x * y // 4 for x, y in zip(h, w, strict=True)],
    }  # fmt: skip

    def vec(dim: Any) -> tuple[int, ...]:
        return tuple(known[dim]) if isinstance(dim, str) else (dim,) * len(PROBES)

    base = [140 if size == -1 else size for size in new]
    maps = [(tuple(h), tuple(w))]
    got = solve_reshape([vec(dim) for dim in old], base, tuple(b), maps, free)
    assert got == (None if expected is None else ([vec(dim) for dim in expected], False))


@pytest.mark.parametrize("value", [560, 559, 1 / 559, 20, 27, 160, 224, 2 / 19], ids=str)
def test_a_constant_that_equals_a_size_is_suspect(value: float) -> None:
    dims = [tuple(p.height // 8 for p in PROBES), tuple(p.width // 8 for p in PROBES)]
    assert baked_size(np.float32(value).reshape(1), dims, PROBES) is not None


@pytest.mark.parametrize("value", [0.5, 1, 2, 3, 6, 8, 0.125, 1e-4, 4], ids=str)
def test_an_ordinary_constant_is_not(value: float) -> None:
    dims = [tuple(p.height // 8 for p in PROBES), tuple(p.width // 8 for p in PROBES)]
    assert baked_size(np.float32(value).reshape(1), dims, PROBES) is None
