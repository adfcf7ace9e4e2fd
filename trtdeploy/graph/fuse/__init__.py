"""The FUSE stage: finds attention blocks and turns each into one node with a function body."""

from trtdeploy.graph.fuse.fuse_attention import FuseAttention

__all__ = ["FuseAttention"]
