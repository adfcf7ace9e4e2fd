"""The emulator's one exception."""

from __future__ import annotations


class PtxError(Exception):
    """A kernel or a launch that a GPU would refuse, hang on, or run with undefined results; or one not understood."""
