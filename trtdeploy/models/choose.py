"""Run one of two modules, chosen inside the graph: ONNX `If`."""

# mypy: allow-subclassing-any

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from trtdeploy.core.errors import UsageError
from trtdeploy.models.insert import evaluating


class Choose(nn.Module):
    """Run `first` where a condition holds, else `second`; only one of them is computed.

    - In eager mode the condition is looked at.
    - The dynamo exporter gets `torch.cond`, which becomes `If`.
    - The TorchScript exporter traces, and a trace has no branches: both modules are computed and one result is
      selected. The results are the same and nothing is saved. `scripted` prepares a model so that it too writes `If`.

    Args:
        first: Takes tensors and returns one tensor.
        second: Takes the same and returns a tensor of the same shape and type.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, condition: Tensor, *inputs: Tensor) -> Tensor:
        """Choose and run.

        Args:
            condition: Boolean, one element: one decision for the whole batch.
            *inputs: What the modules take.
        """
        if torch.jit.is_tracing():
            return torch.where(condition, self.first(*inputs), self.second(*inputs))
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            made: Tensor = torch.cond(condition, self._run_first, self._run_second, inputs)
            return made
        result: Tensor = self.first(*inputs) if bool(condition) else self.second(*inputs)
        return result

    def _run_first(self, *inputs: Tensor) -> Any:
        return self.first(*inputs)

    def _run_second(self, *inputs: Tensor) -> Any:
        return self.second(*inputs)


class _Unpack(nn.Module):
    """Call a module with the tensors of a list."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: list[Tensor]) -> Tensor:
        result: Tensor = self.module(*inputs)
        return result


class _Branch(nn.Module):
    """The scripted form of `Choose`: its branches are traced, the choice is compiled."""

    def __init__(self, first: Any, second: Any) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, condition: Tensor, inputs: list[Tensor]) -> Tensor:
        result: Tensor = self.first(inputs) if bool(condition) else self.second(inputs)
        return result


class _Packed(nn.Module):
    """Call a scripted branch with positional tensors."""

    def __init__(self, branch: Any) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, condition: Tensor, *inputs: Tensor) -> Tensor:
        result: Tensor = self.branch(condition, list(inputs))
        return result


def scripted(model: nn.Module, *example: Tensor) -> torch.jit.ScriptModule:
    """Return a copy of a model that `torch.onnx.export(dynamo=False)` writes with `If` where the model chooses.

    Args:
        model: Has `Choose` modules in it; it is left as it is.
        *example: What the model is run with.

    Raises:
        UsageError: There is no `Choose`, or the model does not reach one, as inside another's branch.
    """
    copied = copy.deepcopy(model).eval()
    choices = {path: module for path, module in copied.named_modules() if isinstance(module, Choose)}
    if not choices:
        raise UsageError("scripted: the model chooses nowhere (it has no Choose module). Export it as it is.")
    seen: dict[str, tuple[Tensor, ...]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _m, args, p=path: seen.setdefault(p, tuple(args)) and None)
        for path, module in choices.items()
    ]
    with evaluating(copied), torch.no_grad():
        copied(*example)
    for hook in hooks:
        hook.remove()
    for path, module in choices.items():
        if path not in seen:
            raise UsageError(f"scripted: {path} is not reached with this example. Choose modules cannot be nested.")
        inputs = [value.detach() for value in seen[path][1:]]
        traced = [_traced(_Unpack(branch), inputs) for branch in (module.first, module.second)]
        packed = _Packed(torch.jit.script(_Branch(*traced)))
        if not path:
            copied = packed
            continue
        parent, _, name = path.rpartition(".")
        setattr(copied.get_submodule(parent), name, packed)
    return _traced(copied, *example)


def _traced(module: nn.Module, *example: Any) -> torch.jit.ScriptModule:
    with torch.no_grad():
        made: torch.jit.ScriptModule = torch.jit.trace(module.eval(), example, check_trace=False)
    return made
