"""Annotated video and images: one output for each stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trtdeploy.core.errors import SinkError, UsageError
from trtdeploy.runtime.draw import Annotator
from trtdeploy.runtime.sinks.image_files import ImageFiles
from trtdeploy.runtime.sinks.video_file import CODECS, VideoFile
from trtdeploy.runtime.sources.images import is_image
from trtdeploy.runtime.sources.known import safe_name

if TYPE_CHECKING:
    from trtdeploy.core.engine_info import EngineInfo
    from trtdeploy.core.types import Result
    from trtdeploy.runtime.draw import DrawOptions
    from trtdeploy.runtime.seams import StreamInfo


class VideoSink:
    """Draws the detections and writes one video per stream, or annotated images for a stream of images.

    What `path` is decides:

    - A video file (`.mp4`, `.m4v`, `.mov`, `.mkv`, `.avi`, `.webm`): the video of the only stream; of several streams
      `out-<stream>.mp4`. Images become a video of one image a second.
    - An image file: the annotated image of a stream of one image.
    - Anything else is a folder: `<stream>.mp4` for each video, and the images of a stream of images under their own
      names, in a folder `<stream>` if there are several streams.

    The frames that other sinks see stay as they are: drawing happens on a copy.

    Args:
        path: Where to write.
        force: Overwrite existing files.
        draw: How detections are drawn.
    """

    def __init__(self, path: str | Path, *, force: bool = False, draw: DrawOptions | None = None) -> None:
        self.name = f"video {path}"
        self.paths: dict[str, Path] = {}
        """Where each stream's output is, file or folder, by stream name. Filled by `open`."""
        self._path = Path(path).expanduser()
        self._force = force
        self._draw = draw
        self._annotator = Annotator()
        self._outputs: dict[str, VideoFile | ImageFiles] = {}

    def open(self, streams: list[StreamInfo], engine: EngineInfo) -> None:
        """Create the outputs of all streams.

        Raises:
            UsageError: An output exists and `force` is not set, or `path` does not fit the streams.
            SinkError: An output cannot be written.
        """
        self._annotator = Annotator(engine.class_names, self._draw)
        for stream in streams:
            self._outputs[stream.name] = self._output(stream, alone=len(streams) == 1)

    def write(self, result: Result) -> None:
        """Draw and write one frame.

        Raises:
            SinkError: It cannot be written; the outputs are valid once closed.
        """
        frame = result.frame
        output = self._outputs[frame.stream]
        image = self._annotator.annotate(frame.image, result.detections)
        if isinstance(output, VideoFile):
            output.write(image, frame.pts_s)
        else:
            output.write(image, frame.index)

    def close(self) -> None:
        """Finish all files, the others too if one of them fails.

        Raises:
            SinkError: The first that failed.
        """
        outputs, self._outputs = list(self._outputs.values()), {}
        errors = []
        for output in outputs:
            try:
                output.close()
            except SinkError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _output(self, stream: StreamInfo, *, alone: bool) -> VideoFile | ImageFiles:
        path, name = self._path, safe_name(stream.name)
        if path.suffix.lower() in CODECS and not path.is_dir():
            path = path if alone else path.with_name(f"{path.stem}-{name}{path.suffix}")
            return self._video(path, stream)
        if is_image(path) and not path.is_dir():
            if not alone or len(stream.items) != 1:
                raise UsageError(
                    f"Output '{path}' is one image, and there are more. Expected a folder, or a video such as out.mp4."
                )
            self.paths[stream.name] = path
            return ImageFiles(path.parent, stream, force=self._force, single=path)
        if path.suffix and not path.is_dir():
            raise UsageError(
                f"Output '{path}' has the unknown suffix '{path.suffix}'. Expected one of {', '.join(CODECS)}, an "
                "image suffix, or a folder without a suffix."
            )
        if stream.items:
            folder = path if alone else path / name
            self.paths[stream.name] = folder
            return ImageFiles(folder, stream, force=self._force)
        return self._video(path / f"{name}.mp4", stream)

    def _video(self, path: Path, stream: StreamInfo) -> VideoFile:
        self.paths[stream.name] = path
        return VideoFile(path, stream, force=self._force)
