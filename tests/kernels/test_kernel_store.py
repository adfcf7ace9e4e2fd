"""Compiled kernels in the package: reading, integrity, and the choice of a launch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trtdeploy.attention.plugins import plugin_specs
from trtdeploy.core.errors import EngineError, UsageError
from trtdeploy.kernels import store

NAME = "trtdeploy_simam_gate_f16_linear_512_wide"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package data that may be damaged."""
    folder = tmp_path / "ptx"
    folder.mkdir()
    for path in (store.TABLE_PATH, *store.PTX_FOLDER.glob(f"{NAME}.*")):
        shutil.copy(path, folder)
    monkeypatch.setattr(store, "PTX_FOLDER", folder)
    monkeypatch.setattr(store, "TABLE_PATH", folder / "table.json")
    store.load_table.cache_clear()
    store._entries.cache_clear()
    yield folder
    store.load_table.cache_clear()
    store._entries.cache_clear()


def test_a_changed_kernel_is_refused(copied: Path) -> None:
    assert ".entry" in store.ptx_text(NAME, "sm80")
    path = copied / f"{NAME}.sm80.ptx"
    path.write_text(path.read_text().replace("div.s32", "rem.s32", 1))
    with pytest.raises(EngineError, match=r"sm80.ptx was changed: its SHA-256 is .*Reinstall trtdeploy"):
        store.ptx_text(NAME, "sm80")


def test_a_missing_kernel_is_named(copied: Path) -> None:
    (copied / f"{NAME}.sm75.ptx").unlink()
    with pytest.raises(EngineError, match=rf"{NAME}.sm75.ptx cannot be read .*Reinstall trtdeploy"):
        store.ptx_text(NAME, "sm75")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, r"cannot be read .*No such file"), ("{", "cannot be read"), ('{"format": 2}', "has format 2, expected 1")],
    ids=["missing", "not JSON", "other format"],
)
def test_a_damaged_table_is_refused(copied: Path, content: str | None, message: str) -> None:
    if content is None:
        (copied / "table.json").unlink()
    else:
        (copied / "table.json").write_text(content)
    with pytest.raises(EngineError, match=message):
        store.load_table()


def test_an_unknown_launch_and_a_target_without_kernel_are_refused() -> None:
    with pytest.raises(EngineError, match="There is no compiled kernel 'nothing'"):
        store.ptx_text("nothing", "sm80")
    with pytest.raises(EngineError, match="is compiled for sm80, not for sm75"):
        store.ptx_text("trtdeploy_scaled_dot_product_f16_linear_d32", "sm75")


@pytest.mark.parametrize(
    ("op_type", "shapes", "data_type", "layout", "expected"),
    [
        ("SimAMGate", [(1, 8, 20, 20)], "float16", "linear", "simam_gate_f16_linear_512_wide"),
        ("SimAMGate", [(1, 8, 80, 80)], "float32", "linear", "simam_gate_f32_linear_8192_wide"),
        ("SimAMGate", [(1, 8, 7, 7)], "float16", "linear", "simam_gate_f16_linear_512"),
        ("SimAMGate", [(1, 8, 160, 160)], "float16", "linear", "simam_gate_f16_linear_looped_wide"),
        ("SimAMGate", [(1, 8, 81, 160)], "float16", "hwc8", "simam_gate_f16_hwc8_looped"),
        ("CoordPool", [(1, 8, 20, 20)], "float16", "linear", "coord_pool_f16_linear_32_wide"),
        ("CoordPool", [(1, 8, 20, 513)], "float16", "linear", "coord_pool_f16_linear_two_passes"),
        (
            "GateMultiply",
            [(1, 8, 20, 20), (1, 8, 1, 1)],
            "float16",
            "linear",
            "gate_multiply_f16_linear_point_512_wide",
        ),
        ("GateMultiply", [(1, 8, 40, 40), (1, 1, 40, 40)], "float32", "linear", "gate_multiply_f32_linear_plane_wide"),
        ("GateMultiply", [(1, 8, 40, 40), (1, 8, 40, 1)], "float16", "hwc8", "gate_multiply_f16_hwc8_any"),
        (
            "ScaledDotProduct",
            [(1, 2, 400, 32), (1, 2, 32, 400), (1, 2, 400, 32)],
            "float16",
            "linear",
            "scaled_dot_product_f16_linear_d32_wide",
        ),
    ],
)
def test_the_launch_is_chosen_by_shape(
    op_type: str, shapes: list[tuple[int, ...]], data_type: str, layout: str, expected: str
) -> None:
    launch = store.choose_launch(plugin_specs()[f"Trtdeploy{op_type}"], shapes, data_type, layout)
    assert launch.name == f"trtdeploy_{expected}"


@pytest.mark.parametrize(("width", "value_width", "layout"), [(48, 48, "linear"), (32, 64, "linear"), (32, 32, "hwc8")])
def test_what_has_no_kernel_is_refused(width: int, value_width: int, layout: str) -> None:
    shapes = [(1, 2, 9, width), (1, 2, width, 9), (1, 2, 9, value_width)]
    with pytest.raises(UsageError, match=r"TrtdeployScaledDotProduct has no kernel for shapes .*--attention native"):
        store.choose_launch(plugin_specs()["TrtdeployScaledDotProduct"], shapes, "float16", layout)


def test_launches_have_unique_names_and_a_kernel_each() -> None:
    names = [launch.name for spec in plugin_specs().values() for launch in spec.launches]
    assert len(names) == len(set(names))
    assert all(store.launch_entry(name)["entry"] == name for name in names)


def test_specs_and_table_are_read_without_triton() -> None:
    code = (
        "import sys; from trtdeploy.attention.plugins import plugin_specs;"
        "from trtdeploy.kernels.store import load_table;"
        "plugin_specs(), load_table(); sys.exit(any(name in sys.modules for name in ('triton', 'torch', 'onnx')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
