"""Read what TensorRT-RTX's verbose log says about an engine; anything it does not understand is an error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from trtdeploy.core.errors import BuildError

LAYERS = "Layers:"
"""Start of the message that lists an engine's kernels, at `ProfilingVerbosity.DETAILED`."""
ACTIVATION = "Total Activation Memory"
WEIGHTS = "Total Weights Memory"
HOST_KINDS = frozenset({"shape_call", "ShapeHostToDevice", "wait", "signal", "jmp", "cjmp", "TrainStation"})
"""Entries of the list that run no kernel: shape arithmetic and its copies, synchronisation, and jumps."""

_ENTRY = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*)\], Outputs: \[(?P<outputs>.*)\], "
    r"(?:TacticName: (?P<tactic>.*)|(?:ParameterType: .*, )?TacticValue: \w+), StreamId: \d+(?:, .*)?, "
    r"Metadata: ?(?P<metadata>.*)"
)
_CONSTANTS = "], Constants: ["
_TYPE = re.compile(r"\bDatatype: (\w+)")
_TENSOR = re.compile(r"\bDimensions: \[([-\d,]*)\].*?\bDatatype: (\w+)")
_WIDTHS = {"Float": 4, "Half": 2, "BFloat16": 2, "Int8": 1, "UInt8": 1, "Bool": 1, "FP8": 1, "Int32": 4, "Int64": 8}
"""Bytes of an element by the log's name of its type."""
_ORIGINS = re.compile(r"(?:\[ONNX Layer: .*\]\w*)?", re.DOTALL)
_ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\]\w*\x1f?(?=\[ONNX Layer: |$)")
_MHA_TACTIC = re.compile(r"_gemm_mha\w*")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One entry of the builder's list of an engine's kernels.

    Attributes:
        name: The builder's name.
        kind: `kgen` (generated), `runtime_fusion` (convolution with what follows it), `gemm`, `correlation`, ...
        tactic: Name of the generated code, empty where there is none.
        inputs, outputs: Types of the tensors, such as `Half`.
        onnx: Names of the ONNX nodes that it computes.
        moved_bytes: Size of the tensors that it reads and writes; None where a dimension is open or a type not known.
        constant_bytes: The same of its constants, the weights.
    """

    name: str
    kind: str
    tactic: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    onnx: tuple[str, ...]
    moved_bytes: int | None = None
    constant_bytes: int | None = None

    @property
    def is_mha(self) -> bool:
        """Whether it is a fused multi-head attention: both products and the softmax in one kernel."""
        return _MHA_TACTIC.match(self.tactic) is not None

    @property
    def is_launch(self) -> bool:
        """Whether it runs on the device, unlike shape arithmetic, synchronisation and jumps."""
        return self.kind not in HOST_KINDS


def parse_kernels(messages: Iterable[str]) -> tuple[Kernel, ...]:
    """Return the kernels that the log lists.

    Args:
        messages: The log's messages, in order.

    Raises:
        BuildError: The list is missing, empty, there twice, or an entry has another form than expected.
    """
    lists = [text for text in messages if text.startswith(LAYERS)]
    if len(lists) != 1:
        raise _unknown_format(f"{len(lists)} messages that start with {LAYERS!r}", "exactly one")
    kernels: list[Kernel] = []
    for line in lists[0].split("\n")[1:]:
        if not line.strip():
            break  # the inputs and outputs of the engine follow
        kernels.append(_parse_entry(line))
    if not kernels:
        raise _unknown_format("no kernel in the list of kernels", "one or more")
    return tuple(kernels)


def parse_bytes(messages: Iterable[str], label: str, lines: int = 1) -> int:
    """Return the number of bytes that the log states as `label`, such as `Total Activation Memory`.

    Args:
        messages: The log's messages.
        label: How the lines start.
        lines: How many there are; the largest number counts. Activations have one for each profile.

    Raises:
        BuildError: There is another number of lines, or one has another form than expected.
    """
    found = [text for text in messages if text.startswith(label)]
    if len(found) != lines:
        raise _unknown_format(f"{len(found)} messages that start with {label!r}", f"exactly {lines}")
    return max(_bytes_of(text, label) for text in found)


def is_fact(text: str) -> bool:
    """Return whether a message of the log is one that `parse_kernels` or `parse_bytes` reads."""
    return text.startswith((LAYERS, ACTIVATION, WEIGHTS))


def _bytes_of(text: str, label: str) -> int:
    match = re.fullmatch(re.escape(label) + r": (\d+) bytes", text.strip())
    if match is None:
        raise _unknown_format(repr(text[:200]), f"'{label}: N bytes'")
    return int(match[1])


def _parse_entry(line: str) -> Kernel:
    match = _ENTRY.fullmatch(line)
    if match is None:
        raise _unknown_format(f"the entry {line[:300]!r}", "'Name: ..., LayerType: ..., Inputs: [...], ...'")
    metadata = match["metadata"].strip()
    if _ORIGINS.fullmatch(metadata) is None:
        raise _unknown_format(f"the origin {metadata[:200]!r}", "'[ONNX Layer: ...]'")
    inputs, _, constants = match["inputs"].partition(_CONSTANTS)
    kernel = Kernel(
        name=match["name"],
        kind=match["kind"],
        tactic=match["tactic"] or "",
        inputs=tuple(_TYPE.findall(inputs)),
        outputs=tuple(_TYPE.findall(match["outputs"])),
        onnx=tuple(_ORIGIN.findall(metadata)),
        moved_bytes=_size_of(inputs + match["outputs"]),
        constant_bytes=_size_of(constants),
    )
    if "mha" in kernel.tactic.lower() and not kernel.is_mha:
        raise _unknown_format(f"the attention kernel {kernel.tactic!r}", "a name that starts with '_gemm_mha'")
    return kernel


def _size_of(tensors: str) -> int | None:
    """Return the bytes of the tensors that a part of an entry lists."""
    total = 0
    for dimensions, kind in _TENSOR.findall(tensors):
        sizes = [int(size) for size in dimensions.split(",") if size]
        if kind not in _WIDTHS or any(size < 0 for size in sizes):
            return None
        total += math.prod(sizes) * _WIDTHS[kind]
    return total


def _unknown_format(found: str, expected: str) -> BuildError:
    return BuildError(
        f"TensorRT-RTX's log is not understood: it holds {found}, expected {expected}. Another version of the library "
        "writes another log: install the one that trtdeploy[rtx] names."
    )
