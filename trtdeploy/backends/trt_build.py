"""The one builder of plans, for TensorRT 10.0 to 11.x and TensorRT-RTX; runs in a child process.

Every name of the library that it touches is written as an attribute of `trt`, `builder`, `network`, `config`, `parser`,
`profile`, `engine` or `inspector`; names that some version lacks are looked up with getattr.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

from trtdeploy.backends.base import Progress
from trtdeploy.backends.rtx_log import is_fact
from trtdeploy.backends.trt_libraries import TITLES
from trtdeploy.backends.trt_progress import make_monitor
from trtdeploy.core.errors import BuildError, ModelError, UsageError
from trtdeploy.core.files import sink_error

Profile = dict[str, list[list[int]]]
"""Minimum, optimum and maximum shape of each input, as JSON."""
_NOISE = ("catchCudaError", "CUDA initialization", "Begin node", "End node", "While parsing node number")
"""Of errors that say nothing about the model: the machine has no GPU, and the parser's frame around a node."""
_MAX_TEXT = 600


class PlanBuild:
    """One network, one plan, and the log of both.

    Args:
        library: Module name, `tensorrt` or `tensorrt_rtx`.
        path: The ONNX file; external data lie beside it.
        profiles: Shapes of the inputs, one mapping per optimization profile.
        settings: `targets` (names of compute capabilities), `strongly_typed`, `name` (of the network), `output` (path
            of the plan), `cache` (path of the timing cache), and the fields of `TensorRtOptions`. All may be left out.
        report: Called with each step.
    """

    def __init__(
        self, library: str, path: str, profiles: list[Profile], settings: dict[str, Any], report: Progress
    ) -> None:
        self.trt: Any = importlib.import_module(library)
        self.title = TITLES[library]
        self.path = path
        self.profiles = profiles
        self.settings = settings
        self.report = report
        self.log: list[tuple[str, str]] = []
        self.refused: list[dict[str, str]] = []

    def run(self) -> dict[str, Any]:
        """Parse and build; return as JSON what the library told.

        Raises:
            ModelError: The file holds no network.
            UsageError: A profile does not fit the network's inputs, or the library or device lacks what was asked.
            SinkError: The plan could not be written.
        """
        trt = self.trt
        logger = self._logger()
        builder = trt.Builder(logger)
        is_typed = self.settings.get("strongly_typed", True)
        # TensorRT 11 knows no other networks and ignores the flag
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if is_typed else 0)
        start_s = time.perf_counter()
        parsed = self._parse(trt.OnnxParser(network, logger))
        parse_s = time.perf_counter() - start_s
        start_s = time.perf_counter()
        plan = self._plan(builder, network) if parsed else None
        build_s = time.perf_counter() - start_s
        if plan is not None and "output" in self.settings:
            _write(plan, self.settings["output"])
        return {
            "parse_s": parse_s,
            "build_s": build_s,
            "engine_bytes": None if plan is None else int(plan.nbytes),
            "layers": self._layers(plan, logger) if plan is not None and self.settings.get("inspect") else None,
            "refused": self.refused,
            "warnings": list(dict.fromkeys(text[:_MAX_TEXT] for severity, text in self.log if severity == "WARNING")),
            "messages": [text for _, text in self.log if is_fact(text)],
        }

    def _parse(self, parser: Any) -> bool:
        """Fill the network; on failure note the parser's errors."""
        if parser.parse_from_file(self.path):
            return True
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            lines = [line for line in error.desc().splitlines() if not any(noise in line for noise in _NOISE)]
            text = f"{error.code().name}: {'; '.join([*lines, *self._parser_remarks(error.desc())])}"
            stack = getattr(error, "local_function_stack", None)  # not in TensorRT 10.0
            callers = stack() if stack is not None else []
            text += f" (in {' > '.join(callers)})" if callers else ""
            self._refuse("parser", text, error.node_name(), error.node_operator())
        if not self.refused:
            self._refuse("parser", *self._last_error())
        return False

    def _parser_remarks(self, known: str) -> list[str]:
        """Return what the log adds to the parser's error `known`, such as the name of a missing weights file."""
        texts = [text for severity, text in self.log if severity.endswith("ERROR")]
        return [t for t in texts if t not in known and not any(noise in t for noise in (*_NOISE, "ModelImporter.cpp"))]

    def _plan(self, builder: Any, network: Any) -> Any:
        """Return the plan, the library's buffer; on failure note the builder's errors and return None."""
        if network.num_outputs == 0:
            raise ModelError(
                f"{self.title} found no network in {self.path}: it has no outputs. Expected an ONNX model; the parser "
                "accepts an empty or foreign file without an error."
            )
        if "name" in self.settings:
            network.name = self.settings["name"]
        config = builder.create_builder_config()
        self._configure(builder, config)
        for shapes in self.profiles:
            self._add_profile(builder, network, config, shapes)
        first = len(self.log)
        with _TimingCache(self.trt, config, self.settings.get("cache"), self.report):
            plan = builder.build_serialized_network(network, config)
        if plan is not None:
            return plan
        names = [network.get_layer(i).name for i in range(network.num_layers)]
        for severity, text in self.log[first:]:
            if severity.endswith("ERROR") and not any(noise in text for noise in _NOISE):
                self._refuse("builder", text, _mentioned(text, names))
        if not self.refused:
            self._refuse("builder", *self._last_error())
        return None

    def _configure(self, builder: Any, config: Any) -> None:
        trt, settings = self.trt, self.settings
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        # several executions run at once, so one needs no streams of its own; each costs waits and signals
        config.max_aux_streams = settings.get("max_aux_streams", 0)
        config.progress_monitor = make_monitor(trt, self.report)
        if settings.get("workspace_mib") is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings["workspace_mib"] << 20)
        if settings.get("optimization_level") is not None:
            config.builder_optimization_level = settings["optimization_level"]
        if settings.get("hardware_compatible"):
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if settings.get("version_compatible"):
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            # the lean runtime inside a plan is host code, which no session of ours allows
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        if settings.get("refit"):
            config.set_flag(trt.BuilderFlag.REFIT)
        if settings.get("sparsity"):
            config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        if settings.get("dla") is not None:
            self._use_dla(builder, config, settings["dla"])
        if settings.get("targets"):
            self._set_targets(config, settings["targets"])

    def _use_dla(self, builder: Any, config: Any, core: int) -> None:
        trt = self.trt
        if core >= builder.num_DLA_cores:
            raise UsageError(
                f"DLA core {core} is not there: {self.title} {trt.__version__} sees {builder.num_DLA_cores} DLA cores "
                "here. Jetson Orin has them with TensorRT 10.0 to 10.7 (JetPack 6), AGX Orin also with 11.4.1 "
                "(JetPack 7.2.2); Thor and discrete GPUs have none. Leave --dla out."
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)

    def _set_targets(self, config: Any, targets: list[str]) -> None:
        known = self.trt.ComputeCapability.__members__
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if target not in known:
                names = ", ".join(name for name in known if name.startswith("SM"))
                raise UsageError(f"Target {target!r} is unknown to {self.title}. Expected one of {names}.")
            if not config.set_compute_capability(known[target], index):
                raise BuildError(f"{self.title} refused the target {target!r}.")

    def _add_profile(self, builder: Any, network: Any, config: Any, shapes: Profile) -> None:
        inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
        if unknown := sorted(shapes.keys() - inputs.keys()):
            raise UsageError(f"The network has no input {unknown[0]!r}. Its inputs are {sorted(inputs)}.")
        profile = builder.create_optimization_profile()
        for name, tensor in inputs.items():
            if tensor.is_shape_tensor:
                raise UsageError(
                    f"Input {name!r} is a shape (its values decide other shapes), which gets no ranges here. Make it a "
                    "constant."
                )
            profile.set_shape(name, *_fitting(name, list(tensor.shape), shapes.get(name)))
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"{self.title} refused the shapes {shapes}: {self._last_error()[0]}")

    def _layers(self, plan: Any, logger: Any) -> str:
        """Return the library's report per layer, as JSON. Needs the GPU."""
        trt = self.trt
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BuildError(f"{self.title} cannot load the plan that it built: {self._last_error()[0]}")
        inspector = engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def _refuse(self, by: str, text: str, node: str = "", operator: str = "") -> None:
        self.refused.append({"by": by, "text": " ".join(text.split())[:_MAX_TEXT], "node": node, "operator": operator})

    def _last_error(self) -> tuple[str]:
        texts = [text for severity, text in self.log if severity.endswith("ERROR")]
        return (texts[-1] if texts else "it gave no reason",)

    def _logger(self) -> Any:
        log = self.log

        class Logger(self.trt.ILogger):  # type: ignore[misc,name-defined]
            """Keeps what is read later: errors, warnings and the lines with figures."""

            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, text: str) -> None:
                if severity.name in {"INTERNAL_ERROR", "ERROR", "WARNING"} or is_fact(text):
                    log.append((severity.name, text))

        return Logger()


class _TimingCache:
    """Gives the build the times that earlier ones measured, and keeps those that it adds."""

    def __init__(self, trt: Any, config: Any, path: str | None, report: Progress) -> None:
        self._trt, self._config, self._report = trt, config, report
        self._path = None if path is None else Path(path)

    def __enter__(self) -> None:
        if self._path is None:
            return
        config = self._config
        data = self._path.read_bytes() if self._path.exists() else b""
        if config.set_timing_cache(config.create_timing_cache(data), False):
            return
        self._report(f"warning: the timing cache {self._path} is damaged or of another version; a new one replaces it")
        config.set_timing_cache(config.create_timing_cache(b""), False)

    def __exit__(self, kind: object, *_: object) -> None:
        config = self._config
        if self._path is None or kind is not None or (cache := config.get_timing_cache()) is None:
            return
        from trtdeploy.core.files import atomic_write

        with atomic_write(self._path) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))


def _fitting(name: str, shape: list[int], wanted: list[list[int]] | None) -> list[tuple[int, ...]]:
    """Return the minimum, optimum and maximum of an input of `shape`, where -1 is open.

    Raises:
        UsageError: They are missing or do not fit.
    """
    if wanted is None and -1 in shape:
        raise UsageError(f"Input {name!r} has the open shape {shape}. Give its minimum, optimum and maximum shape.")
    wanted = wanted or [shape] * 3
    if any(len(w) != len(shape) for w in wanted) or any(
        size not in {-1, *{w[axis] for w in wanted}} or (size != -1 and len({w[axis] for w in wanted}) > 1)
        for axis, size in enumerate(shape)
    ):
        raise UsageError(f"Input {name!r} has shape {shape}, which the shapes {wanted} do not fit.")
    return [tuple(w) for w in wanted]


def _mentioned(text: str, names: list[str]) -> str:
    """Return the longest layer name that `text` mentions, without the number that the parser appends to it."""
    return max((name for name in names if name and name in text), key=len, default="")


def _write(plan: Any, path: str) -> None:
    try:
        Path(path).write_bytes(memoryview(plan))
    except OSError as error:
        raise sink_error(path, error) from error
