"""Plans for the simulated TensorRT: a header as the real one has, metadata, and an ONNX model inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trtdeploy.core.engine_info import EngineInfo
from trtdeploy.core.plan_file import network_name, write_plan

_MAGIC = {"tensorrt": b"ftrt", "tensorrt_rtx": b"vtrt"}
_TARGETS = {"sm75": 0x01, "sm80": 0x02, "sm86": 0x04, "sm89": 0x08, "sm120": 0x10, "sm121": 0x20}
_BODY = b"simulated-plan:"
_HEADER_BYTES = 64


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is special about a plan.

    Attributes:
        profiles: `(min, opt, max)` shapes of the input; empty: one profile with the ranges of the metadata.
        scratch_bytes: Scratch memory of a context.
        context_bytes: What a context takes for itself.
        weight_bytes: What the engine takes.
        capturable: Its layers can be captured in a CUDA graph.
        plugin, plugin_namespace: A plugin that it needs.
        host_code: It contains host code.
        dynamic_outputs: Outputs whose last dimension depends on the data, and their most elements.
    """

    profiles: Sequence[Sequence[Sequence[int]]] = ()
    scratch_bytes: int = 4096
    context_bytes: int = 1024
    weight_bytes: int = 4096
    capturable: bool = True
    plugin: str = ""
    plugin_namespace: str = "acme"
    host_code: bool = False
    dynamic_outputs: dict[str, int] = field(default_factory=dict)


def make_plan(
    path: Path,
    model: bytes,
    info: EngineInfo,
    traits: Traits | None = None,
    version: str = "10.13.3.9",
    library: str = "tensorrt",
    targets: Sequence[str] = (),
) -> Path:
    """Write a plan, and its checksum beside it."""
    traits = traits or Traits()
    if not traits.profiles:
        shapes = zip((info.batch_min, info.batch_opt, info.batch_max), frame_sizes(info), strict=True)
        traits = Traits(**(asdict(traits) | {"profiles": [[[batch, *size, 3] for batch, size in shapes]]}))
    body = {"traits": asdict(traits), "model": base64.b64encode(model).decode()}
    payload = network_name(info).encode() + b"\0" + _BODY + json.dumps(body).encode()
    header = bytearray(_HEADER_BYTES)
    header[0:4] = _MAGIC[library]
    header[16:24] = (_HEADER_BYTES + len(payload)).to_bytes(8, "little")
    header[24:28] = bytes(int(number) for number in version.split("."))
    header[32:36] = sum(_TARGETS[target] for target in targets).to_bytes(4, "little")
    write_plan(bytes(header) + payload, path)
    return path


def frame_sizes(info: EngineInfo) -> list[tuple[int, int]]:
    """Return the smallest, the usual and the largest size of the input: frames may have any."""
    if info.input_kind == "frames":
        return [(1, 1), info.size_opt, (4096, 4096)]
    return [info.size_min, info.size_opt, info.size_max]


def read_body(plan: bytes) -> tuple[Traits, bytes] | None:
    """Return traits and ONNX model of a plan; None when it is damaged."""
    _, found, body = bytes(plan).partition(_BODY)
    if not found:
        return None
    try:
        content = json.loads(body)
    except ValueError:
        return None
    return Traits(**content["traits"]), base64.b64decode(content["model"])
