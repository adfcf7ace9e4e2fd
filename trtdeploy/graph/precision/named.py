"""Nodes that the user names to keep them in higher precision."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection

import onnx_ir as ir

from trtdeploy.core.errors import ModelError


def is_named(node: ir.Node, patterns: Collection[str]) -> bool:
    """Return whether one of `patterns`, with `*` for any text, is the name of `node`."""
    return any(fnmatch.fnmatchcase(node.name or "", pattern) for pattern in patterns)


def check_patterns(model: ir.Model, patterns: Collection[str]) -> None:
    """Check that each pattern names a node of the main graph, a subgraph or a function.

    Raises:
        ModelError: One does not.
    """
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    names = [node.name or "" for graph in graphs for node in graph.all_nodes()] if patterns else []
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern, names, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ModelError(
                f"No node is named {pattern!r}, which should stay in higher precision. Expected a node's name, with * "
                f"for any text.{hint}"
            )
