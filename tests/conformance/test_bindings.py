"""The harness loads the real bindings: their versions, what 11 removed, what has always been there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trt_bindings

REMOVED_IN_11 = (
    "BuilderFlag.FP16",
    "BuilderFlag.BF16",
    "BuilderFlag.INT8",
    "BuilderFlag.FP8",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
    "IInt8EntropyCalibrator2",
    "ITensor.dynamic_range",
    "ILayer.precision",
    "ILayer.set_output_type",
    "IBuilderConfig.set_calibration_profile",
    "Builder.platform_has_fast_fp16",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "ICudaEngine.create_execution_context_without_device_memory",
    "ICudaEngine.device_memory_size",
    "OnnxParser.supports_model",
    "IPluginRegistry.get_plugin_creator",
    "IPluginRegistry.plugin_creator_list",
    "TacticSource.CUDNN",
)
IN_ALL = (
    "BuilderFlag.REFIT",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "Builder.create_network",
    "ICudaEngine.device_memory_size_v2",
    "OnnxParser.supports_model_v2",
    "IExecutionContext.execute_async_v3",
    "IPluginRegistry.get_creator",
    "IExprBuilder.constant",
    "plugin.TensorDesc.like",
    "plugin.TensorDesc.shape_expr",
)


def has(api: dict[str, Any], path: str) -> bool:
    owner, name = path.rsplit(".", 1) if "." in path else ("", path)
    return name in (api["classes"].get(owner, {}) if owner else api["names"])


@pytest.mark.parametrize("version", trt_bindings.VERSIONS)
def test_the_bindings_say_which_version_they_are(apis: dict[str, Any], version: str) -> None:
    assert apis[version]["version"] == version


@pytest.mark.parametrize("name", REMOVED_IN_11)
def test_a_name_that_11_removed_is_found_in_10_only(apis: dict[str, Any], name: str) -> None:
    found = {version: has(api, name) for version, api in apis.items()}
    assert found == {version: version.startswith("10.") for version in found}


@pytest.mark.parametrize("name", IN_ALL)
def test_a_name_that_all_versions_have_is_found_in_all(apis: dict[str, Any], name: str) -> None:
    assert [version for version, api in apis.items() if not has(api, name)] == []


def test_signatures_are_read_from_the_bindings(apis: dict[str, Any]) -> None:
    for api in apis.values():
        create = api["classes"]["Builder"]["create_network"]["signatures"]
        assert [one["parameters"] for one in create] == [["self", "flags"]]
        assert create[0]["returns"].endswith(".INetworkDefinition")


def test_a_failure_in_the_child_comes_with_its_traceback(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text("def fail(trt, argument):\n    trt.BuilderFlag.NO_SUCH_FLAG\n")
    with pytest.raises(AssertionError, match=r"failing\.py:fail failed under TensorRT 11(?s:.)*NO_SUCH_FLAG"):
        trt_bindings.run("11.4.0.106", script, "fail")


def test_what_is_missing_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert trt_bindings.missing() is None
    monkeypatch.setattr(trt_bindings, "compiler", lambda: None)
    assert "no C compiler" in str(trt_bindings.missing())
    monkeypatch.setattr(trt_bindings, "ROOT", tmp_path)
    assert "10.13.3.9, 10.16.1.11, 11.4.0.106 not in" in str(trt_bindings.missing())
    assert str(trt_bindings.missing()).endswith("install.py`")
    monkeypatch.setattr(trt_bindings, "unsupported", lambda: "a platform without wheels")
    assert trt_bindings.missing() == "a platform without wheels"
