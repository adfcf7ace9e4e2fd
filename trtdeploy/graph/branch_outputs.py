"""Gives branches and loop bodies outputs of their own.

A subgraph may read values of the graph around it but must produce its outputs itself. Removing an Identity whose input
is outside leaves a branch that returns an outer value: ONNX Runtime takes that, TensorRT's parser does not.
"""

from __future__ import annotations

import onnx_ir as ir


def own_outputs(model: ir.Model) -> None:
    """Put an Identity behind every output of a subgraph that the subgraph does not produce, in place."""
    for graph in list(model.graphs()):
        if graph is model.graph:
            continue
        seen: set[ir.Value] = set()
        for index, value in enumerate(graph.outputs):
            producer = value.producer()
            if producer is not None and producer.graph is graph and value not in seen:
                seen.add(value)
                continue
            copy = ir.node("Identity", [value], name=f"{graph.name or 'branch'}/output_{index}")
            copy.outputs[0].name = f"{graph.name or 'branch'}/{value.name}_{index}"
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            graph.append(copy)
            graph.outputs[index] = copy.outputs[0]
            seen.add(copy.outputs[0])
