"""A small network with batches for it, and a process that is interrupted while it calibrates."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.quantize import Batch, CalibrateOptions, Calibration, calibrate

WANTED = ("x", "conv", "silu", "pooled")
COUNT = 9
STOP_AT = 5


def network(scale: float = 1.0) -> ir.Model:
    """Return x -> Conv -> SiLU -> MaxPool, with a ReLU of what is never positive beside it."""
    weights = scale * np.random.default_rng(2).normal(size=(8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["conv"], ["sigmoid"]),
        helper.make_node("Mul", ["conv", "sigmoid"], ["silu"]),
        helper.make_node("MaxPool", ["silu"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Neg", ["sigmoid"], ["negative"]),
        helper.make_node("Relu", ["negative"], ["dead"]),
    ]
    shapes = {"pooled": [1, 8, 16, 16], "dead": [1, 8, 32, 32]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
    graph = helper.make_graph(nodes, "g", [x], outputs, [numpy_helper.from_array(weights.astype(np.float32), "w")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def inputs(index: int) -> NDArray[np.float32]:
    """Return the input of a batch; later ones are larger, so that bins must grow."""
    rng = np.random.default_rng(100 + index)
    return (rng.normal(size=(1, 3, 32, 32)) * 1.7**index).astype(np.float32)


class Loads:
    """Batches that note which of them were loaded."""

    def __init__(self, count: int = COUNT) -> None:
        self.loaded: list[int] = []
        self.batches = [Batch(f"image {i}", f"digest {i}", self._loader(i)) for i in range(count)]

    def _loader(self, index: int) -> Any:
        def load() -> Mapping[str, NDArray[Any]]:
            self.loaded.append(index)
            return {"x": inputs(index)}

        return load


def calibrated(
    cache: Path | None, batches: Sequence[Batch] | None = None, method: str = "entropy", **options: Any
) -> Calibration:
    how = CalibrateOptions(method=method, cache=cache, checkpoint_s=0.0, **options)
    return calibrate(network(), WANTED, Loads().batches if batches is None else batches, how)


def main(cache: Path, stop: str, method: str) -> None:
    """Calibrate, but stop for ever at a batch, or while the checkpoint of a batch is written."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    loads = Loads()

    def wait() -> None:
        print("waiting", flush=True)
        time.sleep(60)

    if stop == "loading":
        inner = loads.batches[STOP_AT].load

        def load() -> Mapping[str, NDArray[Any]]:
            wait()
            return inner()

        loads.batches[STOP_AT] = Batch(f"image {STOP_AT}", f"digest {STOP_AT}", load)
    else:
        write = Path.write_bytes

        def halved(path: Path, data: Any) -> int:
            if len(loads.loaded) == STOP_AT + 1:
                write(path, data[: len(data) // 2])
                wait()
            return write(path, data)

        Path.write_bytes = halved  # type: ignore[method-assign, assignment]
    calibrated(cache, loads.batches, method)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
