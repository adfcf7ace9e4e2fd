"""Plans that TensorRT before 10.9 built with plugins bring the C++ plugin library in; no other plan does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_detector
from device_cases import check, images, network
from simulated_device import Machine
from simulated_device.plans import Traits, make_plan

from trtdeploy.backends.base import SessionOptions
from trtdeploy.backends.device import open_plan, time_plan
from trtdeploy.backends.device.libraries import register_plugins
from trtdeploy.backends.plugin_library import load_plugin_library
from trtdeploy.core.engine_info import EngineInfo, PlanInfo
from trtdeploy.core.errors import EngineError, MissingDependencyError
from trtdeploy.kernels.store import load_table

JETPACK = "10.3.0.26"
NAMES = [operation["op_type"] for operation in load_table()["operations"]]
NEEDS_ONE = Traits(plugin=NAMES[0], plugin_namespace="trtdeploy")


def info(**plan: Any) -> EngineInfo:
    return tiny_detector.info("tensorrt", plan=PlanInfo(**({"attention": "plugin"} | plan)))


def plan(folder: Path, version: str = JETPACK, about: EngineInfo | None = None, traits: Traits = NEEDS_ONE) -> Path:
    return make_plan(folder / "x.engine", network(), about or info(), traits, version)


def opened(path: Path, libraries: Any, about: EngineInfo | None = None) -> list[str]:
    """Open a plan, check what it computes, and return the plugin libraries that TensorRT has loaded."""
    session = open_plan(path, about or info(), SessionOptions(), library="tensorrt", libraries=libraries)
    batch = images(0)
    check(session.create_context().infer(batch), batch)
    session.close()
    return list(libraries.trt.get_plugin_registry()._loaded)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty folder of plugin libraries; no other is searched."""
    path = tmp_path / "lib" / "trtdeploy"
    path.mkdir(parents=True)
    monkeypatch.setattr("trtdeploy.backends.plugin_library._folders", lambda: (path,))
    return path


def install(folder: Path, content: str = f"plugins trtdeploy {' '.join(NAMES)}", major: int = 10) -> Path:
    path = folder / f"libtrtdeploy_plugins_trt{major}.so"
    path.write_text(content)
    return path


@pytest.mark.parametrize("version", ["10.0.1.6", JETPACK, "10.8.0.43"])
def test_an_older_plan_with_plugins_loads_the_library_once(version: str, tmp_path: Path, folder: Path) -> None:
    library = install(folder)
    path = plan(tmp_path, version)
    with Machine() as machine:
        libraries = machine.libraries(version)
        assert opened(path, libraries) == [str(library)]
        assert opened(path, libraries) == [str(library)], "the second plan finds it loaded"


def test_a_plan_is_timed_with_the_library(tmp_path: Path, folder: Path) -> None:
    install(folder)
    path = plan(tmp_path)
    with Machine() as machine:
        assert time_plan(path, info(), "tensorrt", runs=2, warm_up=1, libraries=machine.libraries(JETPACK)) > 0


@pytest.mark.parametrize(
    ("version", "attention"),
    [("10.9.0.34", "plugin"), ("11.4.0.106", "plugin"), (JETPACK, "native")],
    ids=["kernels in a plan of 10.9", "kernels in a plan of 11.4", "a plan of 10.3 without plugins"],
)
def test_plans_that_need_no_library_are_opened_without_one(version: str, attention: str, tmp_path: Path) -> None:
    about = info(attention=attention)
    path = plan(tmp_path, version, about, Traits())
    with Machine() as machine:
        assert opened(path, machine.libraries(version), about) == []


@pytest.mark.parametrize(("here", "major"), [("10.13.3.9", 10), ("11.4.0.106", 11)])
def test_the_builders_version_decides_and_the_library_is_for_the_one_that_runs(
    here: str, major: int, tmp_path: Path, folder: Path
) -> None:
    about = info(options=["version-compatible"])
    library = install(folder, major=major)
    path = plan(tmp_path, JETPACK, about)
    with Machine() as machine:
        assert opened(path, machine.libraries(here), about) == [str(library)]


def test_a_library_that_lies_elsewhere_is_linked_or_loaded_beforehand(tmp_path: Path, folder: Path) -> None:
    elsewhere = install(tmp_path)
    path = plan(tmp_path)
    with Machine() as machine:
        libraries = machine.libraries(JETPACK)
        register_plugins(libraries.trt)
        load_plugin_library(libraries.trt, elsewhere)
        assert opened(path, libraries) == [str(elsewhere)]
        link = folder / elsewhere.name
        link.symlink_to(elsewhere)
        assert opened(path, machine.libraries(JETPACK)) == [str(link)]


class TestRefusals:
    def refused(self, path: Path, kind: type[Exception] = EngineError, about: EngineInfo | None = None) -> str:
        """Return the message of a plan that is not opened; nothing of it may stay on the device."""
        with Machine() as machine:
            with pytest.raises(kind) as caught:
                opened(path, machine.libraries(JETPACK), about)
            message = str(caught.value)
            del caught
            assert machine.memory.left() == []
        return message

    def test_a_missing_library_is_named_with_the_folders_and_the_commands(self, tmp_path: Path, folder: Path) -> None:
        message = self.refused(plan(tmp_path), MissingDependencyError)
        assert message.startswith("The plugin library libtrtdeploy_plugins_trt10.so is needed for engines with")
        assert f"(searched in {folder}; one that lies elsewhere can be linked there)" in message
        assert "cmake -S plugins -B build -DTRT_INCLUDE=<folder with NvInfer.h> && cmake" in message
        assert f"--prefix {tmp_path} " in message

    def test_a_library_that_tensorrt_refuses_is_named_with_tensorrts_reason(self, tmp_path: Path, folder: Path) -> None:
        library = install(folder, "no library")
        message = self.refused(plan(tmp_path))
        assert message.startswith(f"{tmp_path / 'x.engine'}: TensorRT {JETPACK} did not load {library}.")
        assert message.endswith(
            f"TensorRT says: IPluginRegistry::loadLibrary: Error Code 3: {library}: not an ELF file"
        )

    def test_a_library_of_another_version_is_refused(self, tmp_path: Path, folder: Path) -> None:
        install(folder, f"plugins trtdeploy {' '.join(NAMES[1:])}")
        message = self.refused(plan(tmp_path))
        assert f"x.engine: {folder}" in message
        assert f"has no plugins for {NAMES[0]}: it was built from another version of trtdeploy" in message

    def test_what_was_asked_of_the_registry_is_not_told_as_the_reason_of_a_refusal(
        self, tmp_path: Path, folder: Path
    ) -> None:
        install(folder)
        message = self.refused(plan(tmp_path, traits=Traits(host_code=True)))
        assert "contains host code" in message
        assert "Cannot find plugin" not in message

    def test_a_plan_that_hides_its_plugins_is_refused_with_the_library_and_the_commands(
        self, tmp_path: Path, folder: Path
    ) -> None:
        install(folder)
        about = info(attention="native")
        message = self.refused(plan(tmp_path, about=about), about=about)
        assert f"needs plugins that are not loaded: {NAMES[0]} (version 1, namespace 'trtdeploy')" in message
        assert "trtdeploy.backends.plugin_library.load_plugin_library(tensorrt)" in message
        assert f"cmake --install build --prefix {tmp_path} " in message
        assert "or build with --attention native. TensorRT says:" in message
