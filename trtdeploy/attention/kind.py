"""What a kind of attention is: where its module, its reference and its rule are, and how to make it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trtdeploy.core.errors import MissingDependencyError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trtdeploy.attention.pattern import Rule

Family = Literal["gate", "dot-product", "mixed"]
DOMAIN = "trtdeploy"
"""Operator domain of fused blocks."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to make a kind, which the catalogue's tests try.

    Attributes:
        channels: Channels of the input; one number per level for kinds that take several maps.
        options: Keyword arguments of the module.
        multiple: Heights and widths must be multiples of this. Default 1.
    """

    channels: int | tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    multiple: int = 1

    def __str__(self) -> str:
        given = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"C{self.channels}" + (f"-{given}" if given else "")


@dataclass(frozen=True, kw_only=True)
class AttentionKind:
    """One kind of attention; its folder is a package with the modules `module`, `naive` and `rule`.

    Attributes:
        package: Name of the package: `__name__` in its `__init__`.
        title: Name in the literature.
        tier: 1 for the common kinds, 2 for the mixed ones.
        family: `gate`, `dot-product` or `mixed`.
        paper: Where it is defined.
        class_name: Principal class of `module`: `Class(channels, **options)`, which maps `[B, C, H, W]` to the same
            shape, or as many maps as it has `levels` to a tuple of them.
        cases: Ways to make it that the tests try; the first is the usual one.
        levels: Number of feature maps it takes. Default 1.
    """

    package: str
    title: str
    tier: int
    family: Family
    paper: str
    class_name: str
    cases: tuple[Case, ...]
    levels: int = 1

    @property
    def name(self) -> str:
        """The name on the command line: that of the folder."""
        return self.package.rpartition(".")[2]

    @property
    def op_type(self) -> str:
        """Operator of a fused block in `DOMAIN`; never the name of an ONNX operator."""
        return f"Trtdeploy{self.class_name}"

    def make(self, channels: int | Sequence[int], **options: Any) -> Any:
        """Return a torch module with fresh weights.

        Args:
            channels: Channels of the input, one number per level.
            **options: Keyword arguments of the module's class.

        Raises:
            MissingDependencyError: torch is not installed.
            UsageError: The class does not take these options or channels.
        """
        try:
            importlib.import_module("torch")
        except ImportError as error:
            raise MissingDependencyError(
                "torch", f"attention {self.name}", "pip install 'trtdeploy[export]'"
            ) from error
        try:
            return getattr(importlib.import_module(f"{self.package}.module"), self.class_name)(channels, **options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"Attention {self.name} cannot be made with channels {channels}: {error}") from error

    def naive(
        self, weights: Mapping[str, NDArray[np.float64]], *maps: NDArray[np.float64], **options: Any
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], ...]:
        """Compute the block with plain numpy loops, straight from the definition.

        Args:
            weights: The module's state by name, as in torch's `state_dict`.
            *maps: `[B, C, H, W]`, one per level.
            **options: As given to `make`.
        """
        result: NDArray[np.float64] = importlib.import_module(f"{self.package}.naive").naive(weights, *maps, **options)
        return result

    def rules(self) -> tuple[Rule, ...]:
        """Return what finds the kind in a graph, the largest form first."""
        if importlib.util.find_spec(f"{self.package}.rule") is None:
            return ()
        found: tuple[Rule, ...] = importlib.import_module(f"{self.package}.rule").RULES
        return found
