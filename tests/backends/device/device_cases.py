"""Engines on the simulated device, and what ONNX Runtime says of the same network."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import tiny_detector
from numpy.typing import NDArray
from onnx import TensorProto, helper
from simulated_device import Machine
from simulated_device.plans import Traits, make_plan
from simulated_device.scheduler import Stream

from trtdeploy.backends.base import SessionOptions
from trtdeploy.backends.device import open_plan
from trtdeploy.backends.device.session import DeviceSession
from trtdeploy.core.engine_info import EngineInfo, NmsInfo, TensorInfo

VERSION = "10.13.3.9"
ORDERS = ("late", "random", "early")


@functools.cache
def network() -> bytes:
    """Return a small detector as an ONNX file."""
    data: bytes = ir.to_proto(tiny_detector.detector()).SerializeToString()
    return data


@functools.cache
def _reference(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def expected(images: NDArray[np.uint8], model: bytes | None = None) -> dict[str, NDArray[Any]]:
    """Return the outputs of ONNX Runtime for a batch."""
    session = _reference(model or network())
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def check(outputs: Mapping[str, Any], images: NDArray[np.uint8], model: bytes | None = None) -> None:
    """Check that outputs are bit for bit those of ONNX Runtime, and not empty."""
    wanted = expected(images, model)
    assert outputs.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(outputs[name], value, err_msg=name)
    if "num_dets" in outputs:
        assert (outputs["num_dets"] > 0).all(), "a comparison of nothing proves nothing"


@contextmanager
def opened(
    machine: Machine,
    folder: Path,
    traits: Traits | None = None,
    version: str = VERSION,
    info: EngineInfo | None = None,
    model: bytes | None = None,
    device: int = 0,
) -> Iterator[DeviceSession]:
    """Yield an engine that is open on a machine; afterwards nothing of it may be left there."""
    info = info or tiny_detector.info("tensorrt")
    path = make_plan(folder / "x.engine", model or network(), info, traits, version)
    libraries = machine.libraries(version, device)
    session = open_plan(path, info, SessionOptions(), library="tensorrt", libraries=libraries)
    try:
        yield session
    finally:
        session.close()
    assert machine.sticky is not None or not machine.faults


images = tiny_detector.images


@functools.cache
def counting_network() -> bytes:
    """Return a network whose output `found [4, N]` has as many columns as there are bright values."""
    nodes = [
        helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.INT32),
        helper.make_node("Greater", ["wide", "limit"], ["bright"]),
        helper.make_node("NonZero", ["bright"], ["found"]),
    ]
    limit = helper.make_tensor("limit", TensorProto.INT32, [], [250])
    shape = ["B", "H", "W", 3]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)]
    outputs = [helper.make_tensor_value_info("found", TensorProto.INT64, [4, "N"])]
    graph = helper.make_graph(nodes, "counting", inputs, outputs, [limit])
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    onnx.checker.check_model(data)
    return data


def counting_info() -> EngineInfo:
    """Return the metadata of `counting_network`."""
    outputs = [TensorInfo(name="found", dtype="int64", shape=[4, "N"])]
    return tiny_detector.info("tensorrt", outputs=outputs, nms=NmsInfo(method="none"))


class Caller:
    """A program that works with the device itself: its stream, and memory in it.

    Args:
        machine: The machine.
        session: An engine that is open there.
    """

    def __init__(self, machine: Machine, session: DeviceSession) -> None:
        self.machine = machine
        self.cuda = session.libraries.cuda
        with self.cuda.current():
            self.stream = self.cuda.create_stream()

    @property
    def queue(self) -> Stream:
        found: Stream = self.machine.handles[self.stream]
        return found

    def array(self, size: tuple[int, ...], **interface: Any) -> CallerArray:
        """Return an array in device memory that nothing was written to yet."""
        block = self.machine.memory.allocate("device", int(np.prod(size)), self.cuda.device)
        assert block is not None
        return CallerArray(block.start, block.data, size, interface)

    def write(self, array: CallerArray, values: NDArray[np.uint8]) -> None:
        """Put into the stream: write `values` into an array."""
        values = values.copy()

        def run() -> None:
            array.memory[:] = values.reshape(-1)

        self.machine.issue(self.queue, "caller writes", run)

    def read(self, outputs: Mapping[str, Any], stream: int | None = None) -> dict[str, NDArray[Any]]:
        """Put into the stream: copy outputs to the host; wait for it and return them."""
        found = {}

        def run() -> None:
            for name, output in outputs.items():
                size = int(np.prod(output.shape)) * output.dtype.itemsize
                data = self.machine.memory.on_device(output.pointer, size, self.cuda.device)
                found[name] = data.view(output.dtype).reshape(output.shape).copy()

        queue = self.queue if stream is None else self.machine.handles[stream]
        self.machine.issue(queue, "caller reads", run)
        self.machine.scheduler.wait(self.machine.scheduler.end_of(queue))
        return found


class CallerArray:
    """Device memory with `__cuda_array_interface__`."""

    def __init__(self, pointer: int, memory: Any, shape: tuple[int, ...], interface: dict[str, Any]) -> None:
        self.pointer, self.memory, self.shape = pointer, memory, shape
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": "|u1",
            "data": (pointer, False),
            "strides": None,
            "stream": None,
        } | interface
