"""The CANONICALISE stage: attention in the one form that NVIDIA's builder fuses, and nothing computed twice."""

from trtdeploy.graph.canonicalise.arrange import ArrangeChannels
from trtdeploy.graph.canonicalise.canonicalise import Canonicalise

__all__ = ["ArrangeChannels", "Canonicalise"]
