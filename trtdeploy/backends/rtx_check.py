"""Refuse the models on which TensorRT-RTX crashes or stays silent, with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from trtdeploy.core.errors import ModelError

_FunctionId = tuple[str, str]


def check_model(path: Path) -> None:
    """Check the ONNX file at `path` before the library sees it.

    The library builds nothing of an empty or foreign file and reports success, takes an opset from the future for its
    own newest, and overflows its stack on functions that call themselves.

    Raises:
        ModelError: It is not an ONNX model, has no output or an unknown opset, or a function calls itself.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(f"There is no model {path}.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # of protobuf, whose class differs between its implementations
        raise ModelError(f"{path} is not an ONNX model, or is truncated: {error}") from error
    if not model.graph.output:
        raise ModelError(f"{path} is not an ONNX model with a network: its graph has no outputs.")
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in {"", "ai.onnx"} and not 1 <= opset.version <= newest:
            raise ModelError(f"{path} says opset {opset.version}. Expected 1 to {newest}, which this onnx knows.")
    _check_recursion(model, path)


def _check_recursion(model: onnx.ModelProto, path: Path) -> None:
    """Raise for functions that call themselves, directly or through others."""
    functions: dict[_FunctionId, onnx.FunctionProto] = {(f.domain, f.name): f for f in model.functions}
    calls = {key: [c for c in _operators(function.node) if c in functions] for key, function in functions.items()}
    done: set[_FunctionId] = set()
    for start, first in calls.items():
        trail: list[tuple[_FunctionId, Iterator[_FunctionId]]] = [(start, iter(first))]
        while trail and start not in done:
            called = next(trail[-1][1], None)
            if called is None:
                done.add(trail.pop()[0])
            elif any(called == caller for caller, _ in trail):
                names = " -> ".join(name for _, name in [*(caller for caller, _ in trail), called])
                raise ModelError(f"{path}: a function calls itself: {names}. Inline it or export the model again.")
            elif called not in done:
                trail.append((called, iter(calls[called])))


def _operators(nodes: Iterable[onnx.NodeProto]) -> Iterator[_FunctionId]:
    """Yield domain and operator of every node, those of subgraphs included."""
    waiting = [*nodes]
    while waiting:
        node = waiting.pop()
        yield node.domain, node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)
