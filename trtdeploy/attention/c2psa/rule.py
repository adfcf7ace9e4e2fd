"""What C2PSA looks like in a graph; with one block it is `psa`."""

from __future__ import annotations

from trtdeploy.attention.pattern import Rule
from trtdeploy.attention.psa.rule import partial

RULES = tuple(Rule(pattern=partial(blocks), form=f"{blocks} blocks") for blocks in (4, 3, 2))
