"""What CBAM looks like in a graph."""

from __future__ import annotations

from trtdeploy.attention.channel_attention.rule import channel_gated
from trtdeploy.attention.pattern import P, Rule
from trtdeploy.attention.spatial_attention.rule import spatially_gated

RULES = (Rule(pattern=spatially_gated(channel_gated(P.input()))),)
