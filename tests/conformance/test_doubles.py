"""The simulated device's TensorRT has nothing that the real one lacks, and its functions take the same arguments."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trt_bindings
from names_used import Use, has

sys.path.insert(0, str(Path(__file__).parents[1]))

from simulated_device import surface
from simulated_device.tensorrt import make_tensorrt

RTX = trt_bindings.RTX
REAL = {"10.0": ("10.13.3.9",), "10": ("10.13.3.9", "10.16.1.11"), "11": ("11.4.0.106",), "rtx": (RTX,)}
"""Bindings that each surface is compared with; what only 10.0 has is still there in 10.13, deprecated."""
CASES = [(name, version) for name, versions in REAL.items() for version in versions]


@pytest.fixture
def api(all_apis: dict[str, Any], version: str) -> dict[str, Any]:
    """Return what a version offers."""
    if version not in all_apis:
        pytest.skip("TensorRT-RTX has no package for this platform")
    found: dict[str, Any] = all_apis[version]
    return found


def differences(double: type, name: str, api: dict[str, Any]) -> list[str]:
    """Return what a double has that the real class has not, and functions that take other arguments."""
    known, found = api["classes"][name], []
    for member in sorted(surface.names(double, name)):
        how = "override" if member in surface.CALLED_BACK.get(name, ()) else "read"
        if not has(api, Use("", 0, name, member, how)):
            found.append(f"{name}.{member} is not in {api['version']}")
            continue
        signatures = known.get(member, {}).get("signatures", [])
        mine = getattr(double, member, None)
        if inspect.isfunction(mine) and signatures and not any(agrees(mine, one["parameters"]) for one in signatures):
            found.append(f"{name}.{member}{inspect.signature(mine)} is {signatures} in {api['version']}")
    return found


def agrees(mine: Callable[..., Any], theirs: list[str]) -> bool:
    """Return whether a double takes just the real parameters, in order; `arg0` and so on have no names in C++."""
    names = list(inspect.signature(mine).parameters)
    if len(names) != len(theirs):
        return False
    pairs = list(zip(names, theirs, strict=True))[1:]
    return all(real.startswith("arg") or name == real for name, real in pairs)


@pytest.mark.parametrize(("name", "version"), CASES)
def test_classes_have_only_what_the_real_ones_have(api: dict[str, Any], name: str) -> None:
    doubles = surface.COMMON | surface.TENSORRT[name] | ({} if name == "rtx" else surface.PLUGINS)
    found = [text for owner, double in doubles.items() for text in differences(double, owner, api)]
    assert found == []


@pytest.mark.parametrize(("name", "version"), CASES)
def test_enumerations_have_only_real_members(api: dict[str, Any], name: str) -> None:
    for owner, double in surface.ENUMS.items():
        assert {member.name for member in double} - set(api["classes"][owner]) == set()


@pytest.mark.parametrize("version", [*trt_bindings.VERSIONS, RTX])
def test_the_module_has_only_real_names(api: dict[str, Any], version: str) -> None:
    double = make_tensorrt(
        None, "1.7.1.116" if version == RTX else version, "tensorrt_rtx" if version == RTX else "tensorrt"
    )
    assert {name for name in vars(double) if not name.startswith("_")} - set(api["names"]) == set()


@pytest.mark.parametrize("name", surface.CALLED_BACK)
@pytest.mark.parametrize("version", [*trt_bindings.VERSIONS, RTX])
def test_called_back_methods_are_documented_with_these_names(api: dict[str, Any], name: str) -> None:
    for method in surface.CALLED_BACK[name]:
        assert has(api, Use("", 0, name, method, "override"))


class Invented:
    def get_tensor_name(self, number: int) -> str: ...
    def get_tensor_shape(self, name: str, batch: int) -> tuple[int, ...]: ...
    def get_tensor_mode(self, name: str) -> int: ...
    def get_tensor_colour(self, name: str) -> str: ...


def test_invented_methods_and_parameters_are_found(apis: dict[str, Any]) -> None:
    found = [text.split("(")[0].split(" is ")[0] for text in differences(Invented, "ICudaEngine", apis["11.4.0.106"])]
    assert found == ["ICudaEngine.get_tensor_colour", "ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_shape"]


def test_what_11_removed_is_found_in_an_older_double(apis: dict[str, Any]) -> None:
    old = surface.TENSORRT["10"]["ICudaEngine"]
    assert differences(old, "ICudaEngine", apis["10.13.3.9"]) == []
    assert differences(old, "ICudaEngine", apis["11.4.0.106"]) == [
        "ICudaEngine.device_memory_size is not in 11.4.0.106"
    ]
