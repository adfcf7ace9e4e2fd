"""Parse and build with TensorRT-RTX; runs in the child process of `rtx_probe`. The only module that imports it."""

from __future__ import annotations

import time
from typing import Any

from trtdeploy.backends.base import Progress
from trtdeploy.backends.rtx_log import is_fact
from trtdeploy.core.errors import BuildError, ModelError, UsageError

Profile = dict[str, list[list[int]]]
"""Minimum, optimum and maximum shape of each input, as JSON."""
_NOISE = ("catchCudaError", "CUDA initialization", "Begin node", "End node", "While parsing node number")
"""Of errors that say nothing about the model: the machine has no GPU, and the parser's frame around a node."""
_MAX_TEXT = 600


def build_all(report: Progress, path: str, profiles: list[Profile], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Build the ONNX file at `path` once per profile and return what each build told, as JSON.

    Args:
        report: Called with each step.
        path: The ONNX file; external data lie beside it.
        profiles: Shapes of the inputs, one mapping per build.
        options: `targets` (names of compute capabilities), `strongly_typed`.

    Raises:
        ModelError: The file holds no network.
        UsageError: A profile does not fit the network's inputs, or a target is unknown.
    """
    builds = []
    for number, profile in enumerate(profiles, 1):
        report(f"build {number} of {len(profiles)}")
        builds.append(_Build(path, profile, options).run())
    return builds


class _Build:
    """One network, one engine, and the log of both."""

    def __init__(self, path: str, profile: Profile, options: dict[str, Any]) -> None:
        import tensorrt_rtx as trt

        self.trt: Any = trt
        self.path = path
        self.profile = profile
        self.options = options
        self.log: list[tuple[str, str]] = []
        self.refused: list[dict[str, str]] = []

    def run(self) -> dict[str, Any]:
        logger = self._logger()
        builder = self.trt.Builder(logger)
        flag = self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        network = builder.create_network(1 << int(flag) if self.options["strongly_typed"] else 0)
        start = time.perf_counter()
        parsed = self._parse(self.trt.OnnxParser(network, logger))
        parse_s = time.perf_counter() - start
        start = time.perf_counter()
        engine_bytes = self._engine(builder, network) if parsed else None
        return {
            "parse_s": parse_s,
            "build_s": time.perf_counter() - start,
            "engine_bytes": engine_bytes,
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
            self._refuse("parser", text, error.node_name(), error.node_operator())
        if not self.refused:
            self._refuse("parser", *self._last_error())
        return False

    def _parser_remarks(self, known: str) -> list[str]:
        """Return what the log adds to the parser's error `known`, such as the name of a missing weights file."""
        texts = [text for severity, text in self.log if severity.endswith("ERROR")]
        return [t for t in texts if t not in known and not any(noise in t for noise in (*_NOISE, "ModelImporter.cpp"))]

    def _engine(self, builder: Any, network: Any) -> int | None:
        """Return the engine's size in bytes; on failure note the builder's errors."""
        if network.num_outputs == 0:
            raise ModelError(
                f"TensorRT-RTX found no network in {self.path}: it has no outputs. Expected an ONNX model; the parser "
                "accepts an empty or foreign file without an error."
            )
        config = builder.create_builder_config()
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        # several engines run at once here, so one needs no streams of its own; each costs waits and signals
        config.max_aux_streams = 0
        self._set_targets(config)
        self._set_profile(builder, network, config)
        first = len(self.log)
        engine = builder.build_serialized_network(network, config)
        if engine is not None:
            return int(engine.nbytes)
        names = [network.get_layer(i).name for i in range(network.num_layers)]
        for severity, text in self.log[first:]:
            if severity.endswith("ERROR") and not any(noise in text for noise in _NOISE):
                self._refuse("builder", text, _mentioned(text, names))
        if not self.refused:
            self._refuse("builder", *self._last_error())
        return None

    def _set_targets(self, config: Any) -> None:
        known = self.trt.ComputeCapability.__members__
        targets = self.options["targets"]
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if target not in known:
                names = ", ".join(name for name in known if name.startswith("SM"))
                raise UsageError(f"Target {target!r} is unknown to TensorRT-RTX. Expected one of {names}.")
            if not config.set_compute_capability(known[target], index):
                raise BuildError(f"TensorRT-RTX refused the target {target!r}.")

    def _set_profile(self, builder: Any, network: Any, config: Any) -> None:
        inputs = {network.get_input(i).name: network.get_input(i) for i in range(network.num_inputs)}
        if unknown := sorted(self.profile.keys() - inputs.keys()):
            raise UsageError(f"The network has no input {unknown[0]!r}. Its inputs are {sorted(inputs)}.")
        profile = builder.create_optimization_profile()
        for name, tensor in inputs.items():
            shape = list(tensor.shape)
            if tensor.is_shape_tensor:
                raise UsageError(
                    f"Input {name!r} is a shape (its values decide other shapes), which the probe cannot give ranges. "
                    "Make it a constant."
                )
            wanted = self.profile.get(name)
            if wanted is None and -1 in shape:
                raise UsageError(
                    f"Input {name!r} has the open shape {shape}. Give its minimum, optimum and maximum shape."
                )
            if wanted is None:
                wanted = [shape] * 3
            if any(len(w) != len(shape) for w in wanted) or any(
                size not in {-1, *{w[axis] for w in wanted}} or (size != -1 and len({w[axis] for w in wanted}) > 1)
                for axis, size in enumerate(shape)
            ):
                raise UsageError(f"Input {name!r} has shape {shape}, which the shapes {wanted} do not fit.")
            profile.set_shape(name, *[tuple(w) for w in wanted])
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"TensorRT-RTX refused the shapes {self.profile}: {self._last_error()[0]}")

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


def _mentioned(text: str, names: list[str]) -> str:
    """Return the longest layer name that `text` mentions, without the number that the parser appends to it."""
    return max((name for name in names if name and name in text), key=len, default="")
