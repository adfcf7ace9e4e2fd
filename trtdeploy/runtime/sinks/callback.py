"""Results to a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtdeploy.core.engine_info import EngineInfo
    from trtdeploy.core.types import Result
    from trtdeploy.runtime.seams import StreamInfo


class CallbackSink:
    """Calls a function with each result, in the sink's own thread.

    Args:
        function: Called as `function(result)`. What it raises ends the pipeline and reaches the caller as it is;
            `StopPipeline` ends it in good order.
        name: Name in reports. Default `callback`.
    """

    def __init__(self, function: Callable[[Result], object], *, name: str = "callback") -> None:
        self.name = name
        self._function = function

    def open(self, streams: list[StreamInfo], engine: EngineInfo) -> None:
        """Do nothing: the function needs no preparation."""

    def write(self, result: Result) -> None:
        """Call the function."""
        self._function(result)

    def close(self) -> None:
        """Do nothing: the function's owner finishes its own things."""
