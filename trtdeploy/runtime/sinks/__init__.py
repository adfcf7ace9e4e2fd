"""Where results go. A new kind of sink is one file with a class that follows `trtdeploy.runtime.seams.Sink`."""

from trtdeploy.runtime.sinks.callback import CallbackSink
from trtdeploy.runtime.sinks.jsonl import JsonlSink
from trtdeploy.runtime.sinks.video import VideoSink
from trtdeploy.runtime.sinks.window import WindowSink

__all__ = ["CallbackSink", "JsonlSink", "VideoSink", "WindowSink"]
