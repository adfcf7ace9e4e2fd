"""Proves that a part of a graph computes an operation: both are run in double precision on adversarial inputs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from trtdeploy.graph.fuse.operand_shapes import Dims
from trtdeploy.graph.fuse.region import Region
from trtdeploy.graph.view.facts import GraphFacts
from trtdeploy.kernels.spec import Operation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_TOLERANCE = 1e-6
"""Relative to the result's magnitude. Constants are FP32, everything else is computed in FP64."""
_MAX_ELEMENTS = 1 << 23
"""Of an input; what is larger at every size known is not proven."""
_MANY_ELEMENTS = 1 << 19
_MAX_PROBES = 2
_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})


@dataclass(frozen=True)
class Proof:
    """Runs a region at the sizes that the graph has at its probe shapes.

    Args:
        region: Its inputs are those of the operation, in order.
        facts: The graph's sizes.
        opset: Its opset.
    """

    region: Region
    facts: GraphFacts
    opset: int

    def objection(
        self, operation: Operation, shapes: Sequence[tuple[Dims, Dims]], attributes: Mapping[str, Sequence[float]]
    ) -> str:
        """Return why the region is not `operation`, or an empty string.

        Args:
            operation: The operation.
            shapes: Per input the shape in which the region takes it, and that in which the operation does: the same
                elements in the same order.
            attributes: The operation's attributes.
        """
        probes = self._probes([given for given, _ in shapes])
        if not probes:
            return "its tensors are too large to be compared"
        try:
            evaluator = ReferenceEvaluator(self._model())
            for probe in probes:
                sizes = [tuple(dim[probe] for dim in given) for given, _ in shapes]
                # the larger probe shows constants that happen to fit the smaller one's sizes
                for inputs in itertools.islice(_inputs(sizes), None if probe == probes[0] else 1):
                    with np.errstate(all="ignore"):
                        actual = list(evaluator.run(None, self._feeds(inputs, probe)))
                    taken = [x.reshape([d[probe] for d in dims]) for x, (_, dims) in zip(inputs, shapes, strict=True)]
                    if not _equal(operation.reference(*taken, **attributes), actual):
                        return "its numbers differ"
        except Exception as error:  # noqa: BLE001  a node may refuse anything; what does not run is not proven
            lines = str(error).splitlines()
            return f"it could not be run to be compared: {type(error).__name__}: {lines[0] if lines else ''}"
        return ""

    def _probes(self, shapes: Sequence[Dims]) -> list[int]:
        """Return the smallest probes that differ."""
        sizes: dict[tuple[tuple[int, ...], ...], int] = {}
        for probe in range(len(shapes[0][0])):
            sizes.setdefault(tuple(tuple(dim[probe] for dim in dims) for dims in shapes), probe)
        elements = {probe: max(int(np.prod(shape)) for shape in key) for key, probe in sizes.items()}
        return sorted((p for p in elements if elements[p] <= _MAX_ELEMENTS), key=elements.__getitem__)[:_MAX_PROBES]

    def _feeds(self, inputs: Sequence[Array], probe: int) -> dict[str, Any]:
        feeds: dict[str, Any] = {v.name or "": x for v, x in zip(self.region.inputs, inputs, strict=True)}
        for value in self.region.sizes:
            data = self.facts.data(value)
            assert data is not None  # that is what makes it a size
            feeds[value.name or ""] = _double(data[probe])
        return feeds

    def _model(self) -> onnx.ModelProto:
        """Return the region in double precision."""
        nodes = [_in_double(ir.to_proto(node)) for node in self.region.nodes]
        constants = [
            onnx.numpy_helper.from_array(_double(value.const_value.numpy()), value.name)
            for value in (*self.region.weights, *self.region.constants)
            if value.const_value is not None
        ]
        double, integer = onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64
        given = [*((v, double) for v in self.region.inputs), *((v, integer) for v in self.region.sizes)]
        inputs = [onnx.helper.make_tensor_value_info(value.name or "", kind, None) for value, kind in given]
        outputs = [onnx.helper.make_tensor_value_info(v.name or "", double, None) for v in self.region.outputs]
        graph = onnx.helper.make_graph(nodes, "region", inputs, outputs, constants)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", self.opset)])


def _inputs(shapes: Sequence[tuple[int, ...]]) -> Iterator[list[Array]]:
    """Yield inputs: usual ones; tiny ones, which show what is added to a variance; far from zero; with outliers."""
    rng = np.random.default_rng(11)
    large = max(int(np.prod(shape)) for shape in shapes) > _MANY_ELEMENTS
    for scale, shift in ((1.0, 0.2), (1e-2, 0.0), (1e-4, 1e-4), (4.0, 3.0))[: 2 if large else None]:
        yield [rng.standard_normal(shape) * scale + shift for shape in shapes]
    yield [rng.standard_normal(shape) * np.where(rng.random(shape) < 1 / 16, 8.0, 0.3) for shape in shapes]


def _equal(expected: Any, actual: Sequence[Any]) -> bool:
    wanted = expected if isinstance(expected, tuple) else (expected,)
    for a, b in zip(wanted, actual, strict=True):
        if a.size != np.size(b):
            return False
        if not np.abs(a.reshape(-1) - np.reshape(b, -1)).max() <= _TOLERANCE * np.abs(a).max():
            return False
    return True


def _double(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _in_double(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return `node` with every float type replaced by double."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
            attribute.i = onnx.TensorProto.DOUBLE
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in _FLOATS:
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(_double(onnx.numpy_helper.to_array(attribute.t))))
    return node
