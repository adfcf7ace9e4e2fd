"""Make a copy of a model ready for tracing, and see that it is one for inference."""

# mypy: allow-subclassing-any

from __future__ import annotations

import copy
from typing import Any

import onnx
from torch import Tensor, nn

from trtdeploy.core.errors import ModelError


class MeanAlong(nn.Module):
    """Average over one axis, as `AdaptiveAvgPool2d((None, 1))` and `((1, None))` do.

    Args:
        axis: 2 for the height, 3 for the width.
    """

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, C, 1, W]` or `[B, C, H, 1]`."""
        return x.mean(self.axis, keepdim=True)


class MaxAlong(MeanAlong):
    """Take the maximum over one axis, as `AdaptiveMaxPool2d((None, 1))` and `((1, None))` do."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, H, W]` to `[B, C, 1, W]` or `[B, C, H, 1]`."""
        return x.amax(self.axis, keepdim=True)


def copied(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode.

    Raises:
        ModelError: It cannot be copied, or a module stays in training mode.
    """
    try:
        made = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"The {type(model).__name__} cannot be copied ({type(error).__name__}: {error}), and exporting works on a "
            "copy. Build the model afresh and load its state_dict."
        ) from error
    made.eval()
    check_mode(made)
    return made


def check_mode(model: nn.Module) -> None:
    """Refuse a model that has a module in training mode.

    Raises:
        ModelError: There is one.
    """
    training = [path for path, module in model.named_modules() if module.training]
    if training:
        raise ModelError(
            f"Module {training[0] or 'of the model'} stays in training mode after eval(); its batch normalisation and "
            "dropout would be exported as in training. Let its train() follow the model's."
        )


def replace_pools(model: nn.Module) -> list[str]:
    """Replace adaptive pools that keep one axis by a mean or maximum over the other, in place.

    TorchScript cannot export `AdaptiveAvgPool2d((None, 1))`.

    Returns:
        What was replaced.
    """
    notes = []
    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            continue
        size: Any = module.output_size
        if not isinstance(size, tuple) or sorted(size, key=str) != [1, None]:
            continue
        axis = 2 if size[0] == 1 else 3
        if getattr(module, "return_indices", False):
            continue
        above, _, name = path.rpartition(".")
        along: type[MeanAlong] = MeanAlong if isinstance(module, nn.AdaptiveAvgPool2d) else MaxAlong
        setattr(model.get_submodule(above), name, along(axis).eval())
        word = "mean" if along is MeanAlong else "maximum"
        notes.append(f"{path}: {type(module).__name__}({size}) became the {word} over axis {axis}.")
    return notes


def check_graph_mode(graph: onnx.GraphProto) -> None:
    """Refuse a graph that was exported for training.

    Raises:
        ModelError: A batch normalisation uses the statistics of its input, or a dropout drops.
    """
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if not tensor.dims}
    for node in graph.node:
        mode = {a.name: a.i for a in node.attribute}.get("training_mode", 0)
        if node.op_type == "Dropout" and len(node.input) > 2:
            mode = int(constants.get(node.input[2], 0))
        if node.op_type in {"BatchNormalization", "Dropout"} and (mode or len(node.output) > 2):
            raise ModelError(
                f"Node {node.name} is a {node.op_type} in training mode: the model was exported for training. Call "
                "eval() in the module that makes it, and do not set `training` by hand."
            )
