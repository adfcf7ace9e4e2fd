"""Hold an attention module after a layer, or before a detection head, so that the model around does not notice."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

KEPT = ("f", "i", "type", "np")
"""What Ultralytics notes on a layer: where its input comes from, its index, type and number of parameters."""
CHILD = "inserted_attention"
"""Name of the attention's submodule in a head or a pyramid."""


class WithAttention(nn.Module):
    """Run a layer, then attention on its output. Attributes of the layer are found here too.

    Args:
        layer: Returns `[B, C, H, W]`.
        attention: Maps `[B, C, H, W]` to the same shape.
    """

    def __init__(self, layer: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.attention = attention
        self.training = layer.training
        for name in KEPT:
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def __getattr__(self, name: str) -> Any:
        """Look where torch looks, then in the layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layer = self.__dict__.get("_modules", {}).get("layer")
            if layer is None:
                raise
            return getattr(layer, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the attention of what the layer returns."""
        return self.attention(self.layer(*args, **kwargs))


class PerLevel(nn.Module):
    """Run one attention module per level, each on its own map.

    Args:
        levels: One module per map.
    """

    def __init__(self, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Map as many `[B, C, H, W]` as there are modules to the same shapes."""
        return tuple(level(given) for level, given in zip(self.levels, maps, strict=True))


class MapsBefore:
    """A hook that sends the maps a head is given through its attention first."""

    def __call__(self, head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the head's arguments with the first one replaced."""
        return (attended(getattr(head, CHILD), args[0]), *args[1:])


class MapsAfter:
    """A hook that sends the maps a pyramid returns through its attention."""

    def __call__(self, pyramid: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        """Return what the pyramid returns, each map attended."""
        return attended(getattr(pyramid, CHILD), output)


def attended(attention: nn.Module, maps: Any) -> Any:
    """Apply attention over levels to the first maps of a map, a sequence or a mapping, and keep its type.

    Args:
        attention: Takes as many maps as its attribute `level_count` says and returns a tuple of them.
        maps: `[B, C, H, W]` alone, in a list or tuple, or in a mapping such as torchvision's pyramids return.
    """
    if isinstance(maps, Mapping):
        made: Any = type(maps)
        return made(zip(maps.keys(), attended(attention, list(maps.values())), strict=True))
    if isinstance(maps, Tensor):
        return attention(maps)[0]
    count = int(attention.level_count)
    changed = [*attention(*maps[:count]), *maps[count:]]
    return tuple(changed) if isinstance(maps, tuple) else changed
