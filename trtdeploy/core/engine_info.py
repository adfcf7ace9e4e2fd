"""Metadata of an engine: one JSON document, strict and bounded, stored inside the backend's native artefact."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from trtdeploy.core.errors import EngineError
from trtdeploy.core.types import BatchRange, Precision, Size, SizeRange

FORMAT_VERSION = 2
METADATA_KEY = "trtdeploy"
"""Key of the JSON string in an ONNX engine's `metadata_props`."""
MAX_METADATA_BYTES = 1 << 20

Text = Annotated[str, msgspec.Meta(max_length=65536)]
ShortText = Annotated[str, msgspec.Meta(max_length=512)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 50)]
SizePair = tuple[Positive, Positive]
Shape = tuple[Positive, Positive, Positive, Positive]
InputKind = Literal["canvas", "frames"]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the metadata structs."""


class TensorInfo(_Strict, frozen=True, kw_only=True):
    """Name, dtype and shape of an engine input or output; a string in `shape` is a dynamic dimension."""

    name: ShortText
    dtype: ShortText
    shape: Annotated[list[int | ShortText], msgspec.Meta(max_length=16)]


class NmsInfo(_Strict, frozen=True, kw_only=True):
    """How candidates become detections inside the engine.

    Attributes:
        method: `fixpoint`, `loop`, `topk`, `model` (the model carried its own NMS) or `none` (raw outputs).
        conf: Score threshold; a detection's score is above it.
        iou: IoU above which the weaker box is suppressed.
        max_det: M, the fixed number of output slots per image.
        candidates: Boxes that enter NMS per image, the best by score.
        steps: Fixpoint steps, 0 for the other methods.
    """

    method: Literal["fixpoint", "loop", "topk", "model", "none"]
    conf: float = 0.25
    iou: float = 0.7
    max_det: Positive = 300
    candidates: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    steps: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    class_agnostic: bool = False
    multi_label: bool = False


class PassInfo(_Strict, frozen=True, kw_only=True):
    """What one graph pass did to the model; see `trtdeploy.core.types.PassReport`."""

    name: ShortText
    stage: ShortText
    changes: Annotated[list[Text], msgspec.Meta(max_length=4096)] = []
    refusals: Annotated[list[Text], msgspec.Meta(max_length=4096)] = []


class SourceInfo(_Strict, frozen=True, kw_only=True):
    """The ONNX model that the engine was built from."""

    name: ShortText
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    opset: Positive
    producer: ShortText = ""


class GateInfo(_Strict, frozen=True, kw_only=True):
    """What the accuracy gate found when the engine was built.

    Attributes:
        verdict: `passed`; `failed` (the engine was asked for all the same); `inconclusive`: nothing differs, but there
            were too few detections to prove anything; `ungated`: it did not run; `emulated`: the engine cannot run
            where it was built, and its graph passed with 16-bit arithmetic emulated on a CPU.
        reason: Why, in a sentence.
        images: Different images that were shown.
        batches: Batches that the engine ran.
        boxes: Boxes of the reference that the engine had to find, over all batches; 0 for raw outputs.
        kept: Blocks that stay in a higher precision because the first engine failed.
    """

    verdict: Literal["passed", "failed", "inconclusive", "ungated", "emulated"]
    reason: Text = ""
    images: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    batches: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    boxes: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0
    kept: Annotated[list[ShortText], msgspec.Meta(max_length=4096)] = []

    def __str__(self) -> str:
        kept = f"; kept in FP32: {', '.join(self.kept)}" if self.kept else ""
        return f"{self.verdict}: {self.reason}{kept}" if self.reason else f"{self.verdict}{kept}"


class ProfileInfo(_Strict, frozen=True, kw_only=True):
    """One optimization profile: shapes `[B,H,W,3]` of the input."""

    name: ShortText
    min: Shape
    opt: Shape
    max: Shape


class PlanInfo(_Strict, frozen=True, kw_only=True):
    """What is known of a plan of TensorRT or TensorRT-RTX beside what every engine has.

    Attributes:
        targets: GPUs that it was built for, such as `sm86`.
        profiles: Its optimization profiles, in order.
        options: Options of the build that differ from their defaults.
        attention: Whether attention blocks run as plugins or as the library's own kernels.
        attention_reason: Why, with the figures where both were measured.
        kernels: Entries of the builder's list of kernels or layers; the figures are None where the builder gave none.
        launches: Those that occupy the device.
        mha: Fused attention kernels among them.
        activation_bytes: Memory of activations at the peak, for the largest shapes.
        weights_bytes: Memory of the weights.
    """

    targets: Annotated[list[ShortText], msgspec.Meta(max_length=64)] = []
    profiles: Annotated[list[ProfileInfo], msgspec.Meta(max_length=64)] = []
    options: Annotated[list[ShortText], msgspec.Meta(max_length=64)] = []
    attention: Literal["native", "plugin"] = "native"
    attention_reason: Text = ""
    kernels: Count | None = None
    launches: Count | None = None
    mha: Count | None = None
    activation_bytes: Count | None = None
    weights_bytes: Count | None = None


class EngineInfo(_Strict, frozen=True, kw_only=True):
    """Everything known about an engine without running it.

    Attributes:
        backend: Name of the backend that built it: `onnxruntime`, `openvino`, ...
        precision: What the user asked for.
        precision_note: What that means on this backend, in a sentence.
        input_kind: `canvas`: `[B,H,W,3]` uint8 BGR, letterboxed by the host to a network size; boxes come in canvas
            pixels. `frames`: `[B,H,W,3]` uint8 BGR of any size; the letterbox is in the graph, boxes in frame pixels.
        fit: How the frame is laid out on the canvas; see `trtdeploy.core.preprocess.Preprocess`.
        inputs, outputs: The engine's tensors.
        batch_min, batch_opt, batch_max: Allowed batch sizes.
        size_min, size_opt, size_max: Allowed network sizes `(height, width)`, multiples of `stride`.
        head: Name of the recognised detector head.
        class_names: Class names by index; may be empty when the model does not name them.
        versions: Versions of trtdeploy and of the libraries that built it.
        gate: Whether its detections were compared with those of the model, and with what result.
        plan: More about a plan of TensorRT or TensorRT-RTX; None for other engines.
    """

    format: Annotated[int, msgspec.Meta(ge=1, le=1000)] = FORMAT_VERSION
    backend: ShortText
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    precision_note: Text = ""
    input_kind: InputKind
    fit: Literal["center", "top-left", "stretch"] = "center"
    inputs: Annotated[list[TensorInfo], msgspec.Meta(min_length=1, max_length=64)]
    outputs: Annotated[list[TensorInfo], msgspec.Meta(min_length=1, max_length=256)]
    batch_min: Positive
    batch_opt: Positive
    batch_max: Positive
    size_min: SizePair
    size_opt: SizePair
    size_max: SizePair
    stride: Positive
    head: ShortText
    class_names: Annotated[list[ShortText], msgspec.Meta(max_length=65536)] = []
    nms: NmsInfo
    passes: Annotated[list[PassInfo], msgspec.Meta(max_length=256)] = []
    source: SourceInfo
    versions: Annotated[dict[ShortText, ShortText], msgspec.Meta(max_length=64)] = {}
    gate: GateInfo = GateInfo(verdict="ungated")
    plan: PlanInfo | None = None

    @property
    def sizes(self) -> SizeRange:
        return SizeRange(Size(*self.size_min), Size(*self.size_opt), Size(*self.size_max))

    @property
    def batches(self) -> BatchRange:
        return BatchRange(self.batch_min, self.batch_opt, self.batch_max)

    def class_name(self, index: int) -> str:
        """Return the name of class `index`, or `class<index>` when the model does not name it."""
        return self.class_names[index] if 0 <= index < len(self.class_names) else f"class{index}"

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata as plain JSON types."""
        result: dict[str, Any] = msgspec.to_builtins(self)
        return result


class _Version(msgspec.Struct):
    """The one field that documents of every format have."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1000)] = FORMAT_VERSION


def encode_info(info: EngineInfo) -> str:
    """Return `info` as the JSON string that goes into the engine file.

    Raises:
        EngineError: The document is larger than `MAX_METADATA_BYTES`.
    """
    data = msgspec.json.encode(info)
    if len(data) > MAX_METADATA_BYTES:
        raise EngineError(f"Engine metadata has {len(data)} bytes; at most {MAX_METADATA_BYTES} are allowed.")
    return data.decode()


def decode_info(text: str | bytes, origin: str) -> EngineInfo:
    """Parse engine metadata strictly.

    Args:
        text: The JSON document.
        origin: Path of the engine, for error messages.

    Raises:
        EngineError: Too large, not JSON, of an unknown format version, or a field is missing, unknown or out of bounds.
    """
    data = text.encode() if isinstance(text, str) else text
    if len(data) > MAX_METADATA_BYTES:
        raise EngineError(f"{origin}: engine metadata has {len(data)} bytes; at most {MAX_METADATA_BYTES} are read.")
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version != FORMAT_VERSION:
            raise EngineError(
                f"{origin}: engine metadata has format {version}; this trtdeploy reads {FORMAT_VERSION}. "
                "Rebuild the engine with this version."
            )
        info = msgspec.json.decode(data, type=EngineInfo)
        _ = info.sizes, info.batches, Precision(info.precision)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise EngineError(f"{origin}: engine metadata is not valid: {error}. Rebuild the engine.") from error
    return info
