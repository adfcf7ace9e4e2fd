"""Which backend is chosen, and what the user is told."""

from __future__ import annotations

import pytest

from trtdeploy.backends import onnxruntime, openvino, registry
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


def test_unknown_backend_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no backend 'cuda'\. Choose one of onnxruntime, openvino, or auto"):
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
