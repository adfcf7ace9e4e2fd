"""Which backend is chosen, and what the user is told."""

from __future__ import annotations

import pytest

from trtdeploy.backends import onnxruntime, openvino, registry, tensorrt, tensorrt_rtx
from trtdeploy.backends.base import SessionOptions
from trtdeploy.core.errors import MissingDependencyError, UsageError


def missing(*names: str) -> object:
    return lambda module: module not in names


def test_auto_takes_openvino_where_it_is_installed() -> None:
    backend, why = registry.choose()
    assert backend.name == "openvino"
    assert why.startswith(f"openvino {backend.availability().version}: ")


def test_auto_takes_onnx_runtime_else_and_says_how_to_get_the_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", missing("openvino"))
    backend, why = registry.choose("auto")
    assert backend.name == "onnxruntime"
    assert "openvino would be faster: not installed: pip install 'trtdeploy[openvino]'" in why


def test_auto_without_any_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", missing("openvino"))
    monkeypatch.setattr(onnxruntime, "is_installed", missing("onnxruntime"))
    with pytest.raises(MissingDependencyError, match="Install it with: pip install onnxruntime"):
        registry.choose()


def test_backend_that_is_named_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, why = registry.choose("onnxruntime")
    assert backend.name == "onnxruntime"
    assert why.endswith("as asked.")
    monkeypatch.setattr(openvino, "is_installed", missing("openvino"))
    with pytest.raises(MissingDependencyError, match=r"openvino .* pip install 'trtdeploy\[openvino\]'"):
        registry.choose("openvino")


def test_auto_takes_tensorrt_where_its_engines_run_and_never_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tensorrt, tensorrt_rtx):
        monkeypatch.setattr(module, "is_installed", lambda name: True)
        monkeypatch.setattr(module, "version_of", lambda *names: "10.16.1.11")
        monkeypatch.setattr(module, "why_no_gpu", lambda: "there is no NVIDIA GPU here.")
    assert registry.choose()[0].name == "openvino"
    monkeypatch.setattr(tensorrt_rtx, "why_no_gpu", lambda: "")
    assert registry.choose()[0].name == "tensorrt-rtx"
    monkeypatch.setattr(tensorrt, "why_no_gpu", lambda: "")
    assert registry.choose()[1] == "tensorrt 10.16.1.11: the fastest on an NVIDIA GPU."


@pytest.mark.parametrize("version", ["8.6.1.6", "9.3.0", "12.0.0.1"])
def test_tensorrt_of_a_version_that_is_not_supported_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "is_installed", lambda name: True)
    monkeypatch.setattr(tensorrt, "version_of", lambda *names: version)
    with pytest.raises(UsageError, match=rf"TensorRT {version} is not supported, expected 10.0 to 11.x: pip install"):
        registry.choose("tensorrt")


def test_missing_tensorrt_has_the_pip_line_and_says_what_to_do_on_a_jetson(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "is_installed", lambda name: False)
    with pytest.raises(
        MissingDependencyError, match=r"pip install tensorrt-cu13 .*tensorrt-cu12.*--system-site-packages"
    ):
        registry.choose("tensorrt")


def test_unknown_backend_lists_those_there_are() -> None:
    with pytest.raises(
        UsageError,
        match=r"no backend 'cuda'\. Choose one of emulated, onnxruntime, openvino, tensorrt, tensorrt-rtx, or auto",
    ):
        registry.get("cuda")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("cores", "plans"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (1, 2)]),
        (4, [(4, 1), (2, 2), (1, 4)]),
        (6, [(6, 1), (3, 2), (2, 3), (1, 6)]),
        (16, [(16, 1), (8, 2), (4, 4), (2, 8), (1, 16)]),
    ],
)
def test_plans_fill_the_cores_and_differ(name: str, cores: int, plans: list[tuple[int, int]]) -> None:
    expected = [SessionOptions(contexts=contexts, threads=threads) for contexts, threads in plans]
    assert registry.get(name).plans(cores) == expected
