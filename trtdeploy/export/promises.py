"""See that the attention which a model promises is run, traced, and in the graph.

An exporter can lose attention without an error: Ultralytics' gives every C2f, subclasses included, another `forward`,
and a subclass that adds attention in its own `forward` is exported without it. Outputs alone do not always tell.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnx
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from trtdeploy.core.errors import ModelError
from trtdeploy.export.options import Attention
from trtdeploy.models.inserted import CHILD

_NAMED = re.compile(
    r"[Aa]tt(n|ention)|Att$|Att(?=[A-Z])|CBAM|PSA|SimAM|^SE($|Block|Layer|Module|Net)|[Ss]queezeEx|^ECA|NonLocal|^(EMA|CGA|MHSA)"
)
_OURS = ("trtdeploy.attention.", "trtdeploy_added_attention.")
_REPEATED = re.compile(r"_\d+$")
"""What the TorchScript exporter appends to a name at a further call."""
SCOPES = "pkg.torch.onnx.name_scopes"


def promised(model: nn.Module) -> dict[str, nn.Module]:
    """Return the attention modules of a model by path: of the catalogue, or of a class that is named like attention.

    What is inside a module of the catalogue is part of it.
    """
    found: dict[str, nn.Module] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") and _is_ours(above) for outer, above in found.items())
        if path and not inside and not isinstance(module, nn.ModuleList | nn.ModuleDict) and _is_attention(module):
            found[path] = module
    return found


def _is_ours(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_OURS)


def _is_attention(module: nn.Module) -> bool:
    kind = type(module)
    if kind.__module__ == "trtdeploy.models.inserted":
        return False
    return _is_ours(module) or _NAMED.search(kind.__name__) is not None


def check_forwards(model: nn.Module) -> None:
    """Refuse a model in which something has replaced the `forward` of a module by one that knows less than its class.

    A replacement that the module's own class defines, such as the fused forward of a convolution, is in order.

    Raises:
        ModelError: There is one; the message names the module.
    """
    for path, module in model.named_modules():
        replaced = vars(module).get("forward")
        kind = type(module)
        owner = next((base for base in kind.__mro__ if "forward" in vars(base)), kind)
        if replaced is None or owner is kind.__mro__[-1]:
            continue
        name = getattr(replaced, "__name__", repr(replaced))
        source = next((base for base in kind.__mro__ if name in vars(base)), None)
        if source is not None and issubclass(source, owner):
            continue
        raise ModelError(
            f"Module {path or 'of the model'} ({kind.__name__}): its forward was replaced by "
            f"{source.__name__ + '.' if source else ''}{name}, which is not {owner.__name__}.forward and leaves out "
            f"what that adds. Undo it (del module.forward), or override {name} in {kind.__name__} too; exporters that "
            "patch a model must get a copy of it."
        )


class Watch:
    """Notes how often modules are called, and by which other modules.

    Args:
        root: The model; while this object is a context, its calls are noted.
        paths: The modules of interest.

    Attributes:
        calls: Number of calls by path.
        chains: By path, the paths of the modules that were being called at its first call, outermost first, and its
            own.
    """

    def __init__(self, root: nn.Module, paths: Sequence[str]) -> None:
        self.calls: Counter[str] = Counter()
        self.chains: dict[str, tuple[str, ...]] = {}
        self._names = {module: path for path, module in root.named_modules() if path}
        self._wanted = {root.get_submodule(path): path for path in paths}
        self._stack: list[str] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Watch:
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module),
        ]
        return self

    def __exit__(self, *_exc: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter_module(self, module: nn.Module, _args: Any) -> None:
        name = self._names.get(module)
        if name is None:
            return
        self._stack.append(name)
        path = self._wanted.get(module)
        if path is not None:
            self.calls[path] += 1
            self.chains.setdefault(path, tuple(self._stack))

    def _leave_module(self, module: nn.Module, _args: Any, _output: Any) -> None:
        if module in self._names:
            self._stack.pop()


def check_runs(
    modules: dict[str, nn.Module], calls: Counter[str], prefix: str, allowed: Sequence[str], when: str
) -> None:
    """Refuse when an attention module was not run.

    Raises:
        ModelError: One was not; the message names it.
    """
    idle = [path for path in modules if not calls[prefix + path] and path not in allowed]
    if idle:
        kinds = ", ".join(f"{path} ({type(modules[path]).__name__})" for path in idle)
        raise ModelError(
            f"The model has attention that is not run {when}: {kinds}. The file would lack it. Look at the forward of "
            f"the module above it, or accept that with allow_idle (--allow-idle {idle[0]})."
        )


def check_nodes(
    graph: onnx.GraphProto, modules: dict[str, nn.Module], prefix: str, watch: Watch, allowed: Sequence[str]
) -> tuple[Attention, ...]:
    """Find the nodes of every attention module in the graph.

    Args:
        graph: As the exporter wrote it, with its names of scopes.
        modules: The attention modules by path.
        prefix: What precedes the paths in the graph.
        watch: Watched the exporter, with the paths in the graph.
        allowed: Paths that may be missing.

    Raises:
        ModelError: A module has none; the message names it.
    """
    counts: Counter[str] = Counter()
    scopes = [_scope(node) for node in graph.node if node.op_type not in {"Constant", "Identity"}]
    for path in modules:
        full = prefix + path
        called = [_segments(chain) for chain in _chains(watch.chains.get(full, (full,)))]
        for scope in scopes:
            if isinstance(scope, set):
                counts[path] += any(name == full or name.startswith(f"{full}.") for name in scope)
            else:
                counts[path] += any(scope[: len(segments)] == segments for segments in called)
    missing = [path for path in modules if not counts[path] and path not in allowed]
    if missing:
        raise ModelError(
            f"The graph has no operator of {missing[0]} ({type(modules[missing[0]]).__name__}), although it was run: "
            "what it computes does not reach the outputs, or is a constant. Look at how its result is used, or "
            f"accept that with allow_idle (--allow-idle {missing[0]})."
        )
    return tuple(
        Attention(path=path, kind=type(module).__name__, node_count=counts[path]) for path, module in modules.items()
    )


def _scope(node: onnx.NodeProto) -> set[str] | list[str]:
    """Return where a node comes from: the dynamo exporter notes module paths, the TorchScript exporter call chains."""
    noted = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), None)
    if noted is not None:
        return {str(scope) for scope in ast.literal_eval(noted)[:-1]}
    return [_REPEATED.sub("", segment) for segment in node.name.split("/")[1:-1]]


def _chains(chain: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the chain of calls, and that without a head whose hook made the call before the head's own scope."""
    owners = {path.partition(f".{CHILD}")[0] for path in chain if f".{CHILD}" in path}
    return [chain, tuple(path for path in chain if path not in owners)]


def _segments(chain: tuple[str, ...]) -> list[str]:
    """Return the names that the TorchScript exporter gives the modules of a chain of calls.

    A module is named by its attribute; an element of a container by the container's name and its index.
    """
    segments = []
    for path in chain:
        parts = path.split(".")
        start = len(parts) - 1
        while start > 0 and parts[start].isdigit():
            start -= 1
        segments.append(_REPEATED.sub("", ".".join(parts[start:])))
    return segments
