"""What a TensorRT version's Python module offers, as data that a child process can send: names, kinds, signatures."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

SIGNATURE = re.compile(r"^(?:\d+\. )?\w*\((.*)\)(?: -> (.+))?$")


def dump(trt: Any, _argument: None) -> dict[str, Any]:
    """Return `{"version", "names", "plugin", "classes"}` of a loaded module.

    `names` and `plugin` map the public names of `tensorrt` and `tensorrt.plugin` to kind and signatures; `classes` maps
    a class (nested ones with a dot) to its members, inherited ones included, with the same; `__doc__` is the text.
    """
    classes: dict[str, Any] = {}
    names = {name: _describe(getattr(trt, name)) for name in _public(trt)}
    for name in names:
        _add_class(classes, name, getattr(trt, name))
    plugin_names = {}
    if trt.__name__ != "tensorrt_rtx":  # its `plugin` cannot be imported: the part behind it is not shipped
        plugin = importlib.import_module("tensorrt.plugin")
        plugin_names = {name: _describe(getattr(plugin, name)) for name in _public(plugin)}
        for name in plugin_names:
            _add_class(classes, f"plugin.{name}", getattr(plugin, name))
    return {"version": trt.__version__, "names": names, "plugin": plugin_names, "classes": classes}


def _public(owner: Any) -> list[str]:
    return [name for name in dir(owner) if not name.startswith("_")]


def _add_class(classes: dict[str, Any], path: str, kind: Any) -> None:
    if not isinstance(kind, type):
        return
    members = classes[path] = {"__init__": _describe(kind.__init__), "__doc__": kind.__doc__ or ""}
    for name in _public(kind):
        members[name] = _describe(inspect.getattr_static(kind, name))
        nested = getattr(kind, name)
        if isinstance(nested, type) and nested.__qualname__ != kind.__qualname__ and path.count(".") < 2:
            _add_class(classes, f"{path}.{name}", nested)


def _describe(thing: Any) -> dict[str, Any]:
    """Return `{"kind", "signatures": [{"parameters", "returns"}]}`; a property's result is its first signature's."""
    if isinstance(thing, type):
        return {"kind": "class", "signatures": []}
    if isinstance(thing, property):
        return {"kind": "property", "writable": thing.fset is not None, "signatures": _signatures(thing.fget)}
    if isinstance(thing, staticmethod):
        return {"kind": "function", "signatures": _signatures(thing.__func__)}
    return {
        "kind": "function" if callable(thing) else "value",
        "signatures": _signatures(thing) if callable(thing) else [],
    }


def _signatures(function: Any) -> list[dict[str, Any]]:
    """Read a function's signatures: pybind11 writes them into the docstring, one a line; Python functions have one."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        pass
    else:
        return [{"parameters": list(signature.parameters), "returns": None}]
    found = []
    for line in (getattr(function, "__doc__", None) or "").splitlines():
        match = SIGNATURE.match(line.strip())
        if match:
            found.append({"parameters": _parameter_names(match[1]), "returns": match[2]})
    return [one for one in found if one["parameters"] != ["*args", "**kwargs"]] or found  # heads a list of overloads


def _parameter_names(text: str) -> list[str]:
    """Split `self: tensorrt.tensorrt.Dims, shape: tuple[int, int] = ()` at its outer commas."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [part.split(":")[0].split("=")[0].strip() for part in parts if part.strip()]
