"""HEAD: recognises the detector head and appends decoding and NMS."""

from trtdeploy.graph.head.append_head import AppendHead
from trtdeploy.graph.head.options import HeadOptions, NmsOptions

__all__ = ["AppendHead", "HeadOptions", "NmsOptions"]
