"""The double of TensorRT's and TensorRT-RTX's runtime."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from simulated_device.machine import Machine
from simulated_device.plans import Traits, read_body
from simulated_device.scheduler import Fault, Mark, Stream

_TYPES = {
    "tensor(float)": "FLOAT",
    "tensor(float16)": "HALF",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(bool)": "BOOL",
}
_tokens = itertools.count(1)


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    INT64 = 8


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class ILogger:
    """Base of loggers; they override `log`."""

    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class IOutputAllocator:
    """Base of allocators for outputs whose size is known late."""

    def __init__(self) -> None:
        self._made = True


class IPluginCreatorV3One:
    """Makes plugins of one kind."""


class IPluginRegistry:
    """Knows the plugins of the process, and writes to the first logger that anybody gave TensorRT.

    A library of plugins is here a text file: `plugins`, a namespace, and the names, separated by blanks.
    """

    def __init__(self) -> None:
        self._logger: weakref.ref[ILogger] | None = None
        self._creators: dict[tuple[str, str, str], IPluginCreatorV3One] = {}
        self._loaded: list[str] = []

    def get_creator(self, type: str, version: str, plugin_namespace: str) -> IPluginCreatorV3One | None:
        """Return a plugin's creator, None after telling the logger that there is none."""
        found = self._creators.get((type, version, plugin_namespace))
        if found is None:
            self._error(
                f"IPluginRegistry::getCreator: Error Code 4: API Usage Error (Cannot find plugin: {type}, "
                f"version: {version}, namespace:{plugin_namespace}.)"
            )
        return found

    def load_library(self, plugin_path: str) -> object | None:
        """Register the plugins of a library; None after telling the logger that it is none."""
        kind, *content = Path(plugin_path).read_text().split()
        if kind != "plugins":
            self._error(f"IPluginRegistry::loadLibrary: Error Code 3: {plugin_path}: not an ELF file")
            return None
        namespace, *names = content
        self._creators |= {(name, "1", namespace): IPluginCreatorV3One() for name in names}
        self._loaded.append(plugin_path)
        return object()

    def _error(self, message: str) -> None:
        assert self._logger is not None, "TensorRT has no logger yet"
        logger = self._logger()
        assert logger is not None, "the plugin registry writes to a logger that is gone"
        logger.log(ILogger.Severity.ERROR, message)

    def _hear(self, logger: ILogger) -> None:
        self._logger = self._logger or weakref.ref(logger)


class Runtime:
    """Makes engines of plans."""

    machine: ClassVar[Machine]
    version: ClassVar[str]
    engine_type: ClassVar[type[ICudaEngine]]
    _registry: ClassVar[IPluginRegistry]

    def __init__(self, logger: ILogger) -> None:
        assert logger._made, "ILogger.__init__ was not called"
        self.logger = logger
        self._registry._hear(logger)
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """Return the engine, None after telling the logger why not."""
        assert self.machine.context_stack, "TensorRT is used without a current context"
        content = read_body(serialized_engine)
        if content is None:
            return self._refuse("Serialization assertion magicTagRead == kMAGIC_TAG failed. Magic tag does not match")
        traits, model = content
        if traits.host_code and not self.engine_host_code_allowed:
            return self._refuse(
                "Cannot deserialize engine with host code: IRuntime::setEngineHostCodeAllowed must be called with true"
            )
        if traits.plugin and self._registry.get_creator(traits.plugin, "1", traits.plugin_namespace) is None:
            return None
        device = self.machine.context_stack[-1]
        weights = self.machine.memory.allocate("device", traits.weight_bytes, device)
        if weights is None:
            return self._refuse("Requested amount of GPU memory could not be allocated: out of memory")
        return self.engine_type(self, model, traits, weights.start, device)

    def _refuse(self, message: str) -> None:
        self.logger.log(ILogger.Severity.ERROR, message)


class ICudaEngine:
    """An engine; its network is computed by ONNX Runtime."""

    context_type: ClassVar[type[IExecutionContext]]

    def __init__(self, runtime: Runtime, model: bytes, traits: Traits, weights: int, device: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._network = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._runtime = runtime
        self._traits = traits
        self._weights = weights
        self._device = device
        self._shapes: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}
        self._nodes = {node.name: node for node in (*self._network.get_inputs(), *self._network.get_outputs())}
        self._input = self._network.get_inputs()[0].name
        self.num_io_tensors = len(self._nodes)
        self.num_optimization_profiles = len(traits.profiles)

    @property
    def device_memory_size_v2(self) -> int:
        return self._traits.scratch_bytes

    def get_tensor_name(self, index: int) -> str:
        return list(self._nodes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == self._input else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[_TYPES[self._nodes[name].type]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self._nodes[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == self._input
        return [tuple(shape) for shape in self._traits.profiles[profile_index]]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        """Return a context, None after telling the logger that there is no memory."""
        size = self._traits.context_bytes
        if strategy is not ExecutionContextAllocationStrategy.USER_MANAGED:
            size += self._traits.scratch_bytes
        own = self._machine.memory.allocate("device", size, self._device)
        if own is None:
            self._runtime._refuse(f"IExecutionContext: allocation of {size} bytes failed: out of memory")
            return None
        return self.context_type(self, own.start)

    @property
    def _machine(self) -> Machine:
        return self._runtime.machine

    def _compute(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        names = [name for name in self._nodes if name != self._input]
        return dict(zip(names, self._network.run(names, {self._input: images}), strict=True))

    def _output_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        if shape not in self._shapes:
            outputs = self._compute(np.zeros(shape, np.uint8))
            self._shapes[shape] = {name: value.shape for name, value in outputs.items()}
        return self._shapes[shape]

    def __del__(self) -> None:
        self._machine.memory.free(self._weights, {"device"})


class DeviceMemorySize:
    """The name that 11 removed; 10.0 has it alone."""

    @property
    def device_memory_size(self) -> int:
        return self._traits.scratch_bytes  # type: ignore[attr-defined]


class ICudaEngine100(DeviceMemorySize, ICudaEngine):
    @property
    def device_memory_size_v2(self) -> int:
        raise AttributeError("device_memory_size_v2 came with 10.1")


class ICudaEngine10(DeviceMemorySize, ICudaEngine):
    pass


@dataclass
class _Arguments:
    """What a run was started with: later calls of the context do not change it."""

    shape: tuple[int, ...]
    addresses: dict[str, int]
    scratch: tuple[int, int]
    generation: int
    token: int = 0
    outputs: dict[str, NDArray[Any]] = field(default_factory=dict)


class IExecutionContext:
    """Runs an engine for one input shape at a time."""

    def __init__(self, engine: ICudaEngine, own: int) -> None:
        self.engine = engine
        self._own = own
        self._machine = engine._machine
        self._profile: int | None = None
        self._switched: Mark | None = None
        self._shape: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._scratch = (0, 0)
        self._generation = 0
        self._first_run: Mark | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = (memory, size)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self.engine.num_optimization_profiles:
            return self._refuse(f"profile {profile_index} does not exist")
        self._profile = profile_index
        self._switched = self._machine.issue(self._stream(stream_handle), "profile", lambda: None)
        self._shape = None
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        if self._profile is None:
            return self._refuse("no optimization profile was set")
        low, _, high = self.engine.get_tensor_profile_shape(name, self._profile)
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse(f"shape {shape} of {name} is outside profile {self._profile}")
        self._shape = tuple(shape)
        self._generation += 1
        self._first_run = None
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._shape is not None
        shape = self.engine._output_shapes(self._shape)[name]
        return (*shape[:-1], -1) if name in self.engine._traits.dynamic_outputs else shape

    def get_max_output_size(self, name: str) -> int:
        shape, itemsize = self.get_tensor_shape(name), 8
        limit = self.engine._traits.dynamic_outputs[name]
        return int(np.prod(shape[:-1])) * limit * itemsize

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self.engine._nodes or memory % 256:
            return self._refuse(f"address {memory:#x} of {name}")
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator) -> bool:
        assert output_allocator._made, "IOutputAllocator.__init__ was not called"
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream, engine = self._stream(stream_handle), self.engine
        size, need = self._scratch[1], engine._traits.scratch_bytes
        missing = engine._nodes.keys() - self._addresses.keys() - self._allocators.keys()
        if self._shape is None or missing or size < need:
            return self._refuse(
                f"shape {self._shape}, no address for {sorted(missing)}, {size} bytes of scratch memory"
            )
        if self._switched is not None and self._switched.stream is not stream and not self._switched.reached:
            return self._refuse("the profile is still being switched in another stream")
        if stream.capture is not None and not self._may_be_captured():
            stream.capture.broken = True
            return self._refuse("the run cannot be captured: operation not permitted when stream is capturing")
        arguments = _Arguments(self._shape, dict(self._addresses), self._scratch, self._generation)
        if self._allocators:
            return self._run_now(stream, arguments)
        self._machine.issue(stream, "network begins", lambda: self._begin(arguments))
        end = self._machine.issue(stream, "network ends", lambda: self._end(arguments))
        self._first_run = self._first_run or end
        return True

    def _may_be_captured(self) -> bool:
        """The first run of a shape allocates, which must be over; and some layers cannot be captured at all."""
        primed = self._first_run is not None and self._first_run.reached
        return self.engine._traits.capturable and not self._allocators and primed

    def _begin(self, arguments: _Arguments) -> None:
        memory, device = self._machine.memory, self.engine._device
        size = int(np.prod(arguments.shape))
        images = memory.on_device(arguments.addresses[self.engine._input], size, device)
        arguments.outputs = self.engine._compute(images.reshape(arguments.shape).copy())
        arguments.token = next(_tokens)
        if arguments.scratch[1]:
            memory.on_device(*arguments.scratch, device)[:8] = _bytes_of(arguments.token)

    def _end(self, arguments: _Arguments) -> None:
        memory, device = self._machine.memory, self.engine._device
        intact = not arguments.scratch[1] or bytes(memory.on_device(*arguments.scratch, device)[:8]) == bytes(
            _bytes_of(arguments.token)
        )
        # a graph is true for the shapes and addresses of its capture only
        intact &= arguments.generation == self._generation
        for name, value in arguments.outputs.items():
            if name not in arguments.addresses:
                continue
            data = np.ascontiguousarray(value if intact else np.roll(value, 1, -1) + value.dtype.type(1))
            memory.on_device(arguments.addresses[name], data.nbytes, device)[:] = data.reshape(-1).view(np.uint8)

    def _run_now(self, stream: Stream, arguments: _Arguments) -> bool:
        """Compute a network whose output sizes depend on the data: TensorRT waits for them, too."""
        first = self._machine.issue(stream, "network begins", lambda: self._begin(arguments))
        assert first is not None
        self._machine.scheduler.wait(first)
        for name, allocator in self._allocators.items():
            value = arguments.outputs[name]
            address = allocator.reallocate_output_async(name, 0, value.nbytes, 256, 0)
            if not address:
                return self._refuse(f"no memory for output {name}")
            arguments.addresses[name] = address
            allocator.notify_shape(name, value.shape)
        self._machine.issue(stream, "network ends", lambda: self._end(arguments))
        return True

    def _stream(self, handle: int) -> Stream:
        stream = self._machine.handles.get(int(handle))
        if not isinstance(stream, Stream):
            raise Fault("cudaErrorInvalidResourceHandle", f"{handle} is no stream")
        return stream

    def _refuse(self, message: str) -> bool:
        self.engine._runtime._refuse(f"IExecutionContext: API Usage Error ({message})")
        return False

    def __del__(self) -> None:
        self._machine.memory.free(self._own, {"device"})


class IExecutionContext100(IExecutionContext):
    """Of 10.0: scratch memory is a property without a size."""

    set_device_memory: Any = property()

    @property
    def device_memory(self) -> int:
        return self._scratch[0]

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        self._scratch = (memory, self.engine._traits.scratch_bytes)


def _bytes_of(token: int) -> NDArray[np.uint8]:
    return np.frombuffer(token.to_bytes(8, "little"), np.uint8)


def make_tensorrt(machine: Machine, version: str, library: str = "tensorrt") -> Any:
    """Return the module `tensorrt` of a version, or `tensorrt_rtx`, on a machine."""
    numbers = [int(number) for number in version.split(".")]
    is_first = library == "tensorrt" and numbers[:2] == [10, 0]
    is_older = library == "tensorrt" and numbers[0] == 10
    engine_type: type[ICudaEngine] = ICudaEngine100 if is_first else ICudaEngine10 if is_older else ICudaEngine
    context_type = IExecutionContext100 if is_first else IExecutionContext
    engine_type = type("ICudaEngine", (engine_type,), {"context_type": context_type})
    registry = IPluginRegistry()
    runtime_type = type(
        "Runtime",
        (Runtime,),
        {"machine": machine, "version": version, "engine_type": engine_type, "_registry": registry},
    )
    module = SimpleNamespace(
        __version__=version,
        Runtime=runtime_type,
        ILogger=ILogger,
        IOutputAllocator=IOutputAllocator,
        DataType=DataType,
        TensorIOMode=TensorIOMode,
        ExecutionContextAllocationStrategy=ExecutionContextAllocationStrategy,
    )
    if library == "tensorrt":

        def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
            """Register the plugins that come with TensorRT."""
            registry._hear(logger)
            return True

        module.init_libnvinfer_plugins = init_libnvinfer_plugins
        module.get_plugin_registry = lambda: registry
        module.IPluginCreatorV3One = IPluginCreatorV3One
    return module
