"""CSI cameras of NVIDIA Jetson."""

from __future__ import annotations

import re

from trtdeploy.core.errors import UsageError
from trtdeploy.runtime.sources.gstreamer import GStreamerSource
from trtdeploy.runtime.sources.known import number_option, size_option, split_options

_ADDRESS = re.compile(r"csi://(\d{1,2})(?:\?.*)?")


class CsiSource(GStreamerSource):
    """A CSI camera of a Jetson, through `nvarguscamerasrc`.

    `csi://0?size=1280x720&fps=30&flip=2`; size and rate default to these, `flip` is nvvidconv's flip-method, 0 to 7.

    Raises:
        UsageError: An option is unknown or malformed.
    """

    forms = "csi://0, csi://0?size=1920x1080&fps=30&flip=2 (Jetson)"

    @classmethod
    def accepts(cls, uri: str) -> bool:
        return uri.startswith("csi://")

    @classmethod
    def default_name(cls, uri: str) -> str:
        match = _ADDRESS.fullmatch(uri)
        return f"csi{match[1]}" if match else "csi"

    @classmethod
    def pipeline(cls, uri: str) -> str:
        match = _ADDRESS.fullmatch(uri)
        if match is None:
            raise UsageError(f"Source '{uri}' is not a CSI camera. Expected csi://0.")
        _, options = split_options(uri, ("size", "fps", "flip"))
        size = size_option(uri, options.get("size", "1280x720"))
        fps = round(number_option(uri, "fps", options.get("fps", "30"), least=1, most=240))
        flip = round(number_option(uri, "flip", options.get("flip", "0"), least=0, most=7))
        return (
            f"nvarguscamerasrc sensor-id={match[1]} ! video/x-raw(memory:NVMM),width={size.width},"
            f"height={size.height},framerate={fps}/1 ! nvvidconv flip-method={flip} ! video/x-raw,format=BGRx"
        )
