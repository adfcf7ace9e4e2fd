"""The C++ plugin library is found, loaded once, and refused with a reason."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trtdeploy.backends.plugin_library import find_plugin_library, load_plugin_library
from trtdeploy.core.errors import EngineError, MissingDependencyError, UsageError
from trtdeploy.kernels.store import load_table

NAMES = [operation["op_type"] for operation in load_table()["operations"]]


class CreatorV3One:
    """What the library registers."""


class Registry:
    """TensorRT's registry, which gives the creators of a library when it loads it."""

    def __init__(self, offered: list[str], registered: dict[str, object] | None = None, loads: bool = True) -> None:
        self.offered, self.creators, self.loads = offered, registered or {}, loads
        self.loaded: list[str] = []

    def get_creator(self, type: str, version: str, plugin_namespace: str) -> object | None:
        assert (version, plugin_namespace) == ("1", "trtdeploy")
        return self.creators.get(type)

    def load_library(self, plugin_path: str) -> object | None:
        self.loaded.append(plugin_path)
        if not self.loads:
            return None
        self.creators.update({name: CreatorV3One() for name in self.offered})
        return object()


def tensorrt(registry: Registry, version: str = "10.3.0.26") -> Any:
    return SimpleNamespace(__version__=version, IPluginCreatorV3One=CreatorV3One, get_plugin_registry=lambda: registry)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the library, installed in an environment."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    path = tmp_path / "lib" / "trtdeploy" / "libtrtdeploy_plugins_trt10.so"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_an_installed_library_is_loaded_once(library: Path) -> None:
    registry = Registry(NAMES)
    load_plugin_library(tensorrt(registry))
    load_plugin_library(tensorrt(registry))
    assert registry.loaded == [str(library)]


def test_plugins_that_are_registered_already_need_no_library(tmp_path: Path) -> None:
    registry = Registry([], {name: CreatorV3One() for name in NAMES})
    load_plugin_library(tensorrt(registry), tmp_path / "nowhere.so")
    assert registry.loaded == []


def test_a_missing_library_is_an_error_that_says_how_to_build_it(library: Path) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        load_plugin_library(tensorrt(Registry(NAMES), "11.1.0.106"))
    message = str(caught.value)
    assert message.startswith("The plugin library libtrtdeploy_plugins_trt11.so is needed for engines with trtdeploy's")
    assert f"searched in {library.parent}, /usr/local/lib/trtdeploy, /usr/lib/trtdeploy" in message
    assert f"cmake --install build --prefix {library.parents[2]} (in a checkout" in message


def test_a_folder_or_a_file_can_be_given(library: Path) -> None:
    assert find_plugin_library("10.3.0.26", library) == library
    assert find_plugin_library("10.3.0.26", library.parent) == library


def test_a_given_path_without_the_library_is_a_usage_error(library: Path) -> None:
    with pytest.raises(
        UsageError, match=r"trt11\.so does not exist\. Expected libtrtdeploy_plugins_trt11\.so, or the folder"
    ):
        find_plugin_library("11.0", library.parent)


def test_a_library_that_tensorrt_refuses_is_an_error(library: Path) -> None:
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0\.26 did not load .*trt10\.so\. Its log has the reason"):
        load_plugin_library(tensorrt(Registry(NAMES, loads=False)))


def test_a_library_of_another_version_is_an_error(library: Path) -> None:
    with pytest.raises(EngineError, match=f"has no plugins for {NAMES[0]}: it was built from another version"):
        load_plugin_library(tensorrt(Registry(NAMES[1:])))


def test_quick_plugins_of_the_same_names_are_an_error(library: Path) -> None:
    with pytest.raises(EngineError, match=f"{NAMES[0]} is registered in this process already, as a quick plugin"):
        load_plugin_library(tensorrt(Registry(NAMES, {NAMES[0]: object()})))
