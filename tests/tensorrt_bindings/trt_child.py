"""The child process of trt_bindings.run: loads the bindings of one TensorRT version and calls one function."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class PluginRegistry:
    """Keeps creators as `IPluginRegistry` does, which the stub library has none of."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, plugin_namespace: str = "") -> bool:
        key = (creator.name, creator.plugin_version, plugin_namespace)
        if key in self.creators:
            return False
        self.creators[key] = creator
        return True

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> Any:
        return self.creators.get((type, version, plugin_namespace))

    @property
    def all_creators(self) -> list[Any]:
        return list(self.creators.values())


def load(folder: str | None, libraries: list[str]) -> ModuleType:
    """Return the module that `import tensorrt` gives from now on: the bindings in `folder`, or tensorrt_rtx."""
    if folder is None:
        return importlib.import_module("tensorrt_rtx")
    for library in libraries:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)  # the bindings' own search by name then finds these
    sys.path.insert(0, folder)
    module = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = module
    registry = PluginRegistry()
    module.get_plugin_registry = lambda: registry  # type: ignore[attr-defined]
    return module


def main() -> None:
    faulthandler.enable()  # a stub that is called shows as a crash: say where
    order = json.load(sys.stdin)
    module = load(order["folder"], order["libraries"])
    script = Path(order["script"])
    sys.path.insert(1, str(script.parent))
    function = getattr(importlib.import_module(script.stem), order["function"])
    Path(order["result"]).write_text(json.dumps(function(module, order["argument"])))


if __name__ == "__main__":
    main()
