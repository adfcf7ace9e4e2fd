"""Measure how the time of attention surgery grows with a graph's nodes.

    python benchmarks/surgery_scaling.py --nodes 2500 5000 10000 20000

The graph is a chain of convolutions with SiLU, every tenth followed by a squeeze-and-excitation gate, every fortieth by
self-attention. Times are seconds of one run each; what counts is that seconds per node stay the same.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.graph.canonicalise import Canonicalise
from trtdeploy.graph.fuse import FuseAttention
from trtdeploy.graph.prepare import Prepare

CHANNELS = 8


@dataclass
class Chain:
    """A graph under construction; every method appends to the tensor `last`."""

    last: str = "images"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, op_type: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"/{op_type}_{name}", **attributes))
        return name

    def conv(self, source: str, inputs: int = CHANNELS, outputs: int = CHANNELS) -> str:
        rng = np.random.default_rng(len(self.weights))
        name = f"w{len(self.weights)}"
        weight = (rng.standard_normal((outputs, inputs, 1, 1)) / inputs**0.5).astype(np.float32)
        self.weights.append(numpy_helper.from_array(weight, name))
        return self.op("Conv", source, name, kernel_shape=[1, 1])

    def stage(self, index: int) -> None:
        """Append a convolution with SiLU, and now and then attention."""
        y = self.conv(self.last, 3 if self.last == "images" else CHANNELS)
        self.last = self.op("Mul", y, self.op("Sigmoid", y))
        if index % 10 == 0:
            hidden = self.op("Relu", self.conv(self.op("GlobalAveragePool", self.last), CHANNELS, 4))
            self.last = self.op("Mul", self.last, self.op("Sigmoid", self.conv(hidden, 4, CHANNELS)))
        if index % 40 == 0:
            q, k, v = (self.op("Reshape", self.conv(self.last), "flat") for _ in range(3))
            weights = self.op("Softmax", self.op("MatMul", self.op("Transpose", q, perm=[0, 2, 1]), k), axis=-1)
            mixed = self.op("MatMul", v, self.op("Transpose", weights, perm=[0, 2, 1]))
            self.last = self.op("Add", self.last, self.op("Reshape", mixed, self.op("Shape", self.last)))

    def model(self) -> onnx.ModelProto:
        self.weights.append(numpy_helper.from_array(np.array([0, CHANNELS, -1]), "flat"))
        image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])
        out = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, ["batch", CHANNELS, "height", "width"])
        graph = helper.make_graph(self.nodes, "chain", [image], [out], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def chain(nodes: int) -> onnx.ModelProto:
    """Return a model of at least `nodes` nodes."""
    made = Chain()
    index = 0
    while len(made.nodes) < nodes:
        made.stage(index)
        index += 1
    return made.model()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[2500, 5000, 10000, 20000])
    print(f"{'nodes':>7} {'blocks':>7} {'prepare s':>10} {'canonicalise s':>15} {'fuse s':>8} {'us per node':>12}")
    for count in parser.parse_args().nodes:
        model = ir.from_proto(chain(count))
        nodes = model.graph.num_nodes()
        times = [time.perf_counter()]
        model = Prepare(verify=False).run(model).model
        times.append(time.perf_counter())
        model = Canonicalise().run(model).model
        times.append(time.perf_counter())
        blocks = FuseAttention().run(model).report.details["blocks"]
        times.append(time.perf_counter())
        prepare, canonicalise, fuse = (b - a for a, b in itertools.pairwise(times))
        per_node = 1e6 * (canonicalise + fuse) / nodes
        print(f"{nodes:7} {len(blocks):7} {prepare:10.2f} {canonicalise:15.2f} {fuse:8.2f} {per_node:12.0f}")


if __name__ == "__main__":
    main()
