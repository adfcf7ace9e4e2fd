"""What the user says about the detector head and about how candidates become detections."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from trtdeploy.core.errors import UsageError
from trtdeploy.core.preprocess import Color, Fit

Family = Literal["auto", "yolov5", "yolov8", "yolov10", "yolox", "rtdetr", "nms", "explicit"]
BoxFormat = Literal["xyxy", "yxyx", "cxcywh"]
Activation = Literal["none", "sigmoid", "softmax"]
Method = Literal["auto", "fixpoint", "loop", "topk", "none"]

MAX_CANDIDATES = 3840
"""TensorRT's TopK returns at most this many elements."""
MAX_STEPS = 512
FIXPOINT_CANDIDATES = 512
FIXPOINT_STEPS = 16


@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Where the detections are in the model's outputs. Everything left out is recognised or follows the family.

    Attributes:
        family: The head's family, or `auto`. `explicit` follows from `boxes` and `scores`.
        boxes: Name of the tensor with `[B,N,4]` or `[B,4,N]` boxes.
        scores: Name of the tensor with `[B,N,nc]` or `[B,nc,N]` class scores, or `[B,N]` scores beside `classes`.
        classes: Name of a `[B,N]` tensor of class indices, for heads that have chosen one class per box.
        objectness: Name of a `[B,N]` or `[B,N,1]` tensor that multiplies the class scores.
        format: How a box is written: `xyxy`, `yxyx` or `cxcywh`.
        normalized: Boxes are fractions of the network's width and height instead of pixels.
        activation: What turns the scores tensor into scores in 0..1.
        fit, color, divisor, mean, std: Preprocessing that differs from the family's; see
            `trtdeploy.core.preprocess.Preprocess`.
    """

    family: Family = "auto"
    boxes: str | None = None
    scores: str | None = None
    classes: str | None = None
    objectness: str | None = None
    format: BoxFormat | None = None
    normalized: bool | None = None
    activation: Activation | None = None
    fit: Fit | None = None
    color: Color | None = None
    divisor: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for name, kind in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise UsageError(f"Head option {name}={value!r} is unknown. Expected {' | '.join(get_args(kind))}.")
        if (self.boxes is None) != (self.scores is None):
            raise UsageError("Head options boxes and scores belong together. Expected --head boxes=NAME,scores=NAME.")
        if self.boxes is None and (self.family == "explicit" or self.classes or self.objectness):
            raise UsageError("An explicit head needs the tensors' names. Expected --head boxes=NAME,scores=NAME.")
        if self.boxes is not None and self.family not in {"auto", "explicit"}:
            raise UsageError(f"Head options boxes and scores exclude family={self.family}. Leave the family out.")
        if self.classes and (self.objectness or self.activation not in {None, "none"}):
            raise UsageError(
                "Head option classes excludes objectness and activation: the scores are final. Leave them out."
            )
        if self.divisor is not None and not self.divisor > 0:
            raise UsageError(f"Head option divisor={self.divisor:g} is not positive. Expected 255 or 1.")
        if self.std is not None and not all(s > 0 for s in self.std):
            raise UsageError(f"Head option std={self.std} is not positive. Expected three positive numbers.")

    @classmethod
    def parse(cls, text: str) -> HeadOptions:
        """Parse the command line's form: a family, or `key=value` pairs, separated by commas.

        `yolov8` · `boxes=b,scores=s,format=xyxy` · `rtdetr,mean=0.485/0.456/0.406`.

        Raises:
            UsageError: A key is unknown or given twice, or a value is not valid.
        """
        values: dict[str, Any] = {}
        for item in (part.strip() for part in text.split(",")):
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals:
                key, value = "family", item
            if key not in {f.name for f in fields(cls)}:
                known = ", ".join(f.name for f in fields(cls))
                raise UsageError(f"Head option {key!r} in {text!r} is unknown. Expected one of {known}.")
            if key in values:
                raise UsageError(f"Head option {key} is given twice in {text!r}. Give it once.")
            if not value:
                raise UsageError(f"Head option {key!r} in {text!r} has no value. Expected for instance boxes=NAME.")
            values[key] = _PARSERS.get(key, lambda _, given: given)(key, value)
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class NmsOptions:
    """How candidates become detections.

    Attributes:
        method: `loop`: exact greedy NMS in control flow (ONNX Loop), whose cost follows the number of candidates.
            `fixpoint`: NMS without control flow, so that it can be captured in a CUDA graph; exact as long as no chain
            of suppressions is longer than `steps`. `topk`: no suppression. `none`: the model's own outputs. `auto`:
            `topk` for heads that need no NMS, else `loop` on a CPU and `fixpoint` on a GPU.
        conf: Score threshold, at least 0 and below 1; a detection's score is above it.
        iou: IoU above which the weaker box of a class is suppressed, above 0 and at most 1.
        max_det: Number of output slots per image.
        class_agnostic: Boxes of different classes suppress each other too.
        multi_label: A box may be detected as several classes, each a candidate of its own.
        candidates: Candidates per image that enter NMS, the best by score. None: 3840, and 512 for `fixpoint`.
        steps: Steps of `fixpoint`. None: 16.
    """

    method: Method = "auto"
    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    class_agnostic: bool = False
    multi_label: bool = False
    candidates: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UsageError(f"NMS method {self.method!r} is unknown. Expected {' | '.join(get_args(Method))}.")
        if not 0 <= self.conf < 1:
            raise UsageError(f"Score threshold {self.conf:g} is out of range. Expected 0 <= conf < 1.")
        if not 0 < self.iou <= 1:
            raise UsageError(f"IoU threshold {self.iou:g} is out of range. Expected 0 < iou <= 1.")
        if not 1 <= self.max_det <= MAX_CANDIDATES:
            raise UsageError(f"Maximum of detections {self.max_det} is out of range. Expected 1 to {MAX_CANDIDATES}.")
        if self.candidates is not None and not self.max_det <= self.candidates <= MAX_CANDIDATES:
            raise UsageError(
                f"NMS candidates {self.candidates} is out of range. "
                f"Expected max_det ({self.max_det}) to {MAX_CANDIDATES}."
            )
        if self.steps is not None and not 1 <= self.steps <= MAX_STEPS:
            raise UsageError(f"NMS steps {self.steps} is out of range. Expected 1 to {MAX_STEPS}.")

    def candidate_limit(self, method: str) -> int:
        """Return how many candidates per image enter `method`."""
        if self.candidates is not None:
            return self.candidates
        return max(self.max_det, FIXPOINT_CANDIDATES) if method == "fixpoint" else MAX_CANDIDATES

    def step_limit(self, method: str) -> int:
        """Return the number of fixpoint steps, 0 for other methods."""
        return 0 if method != "fixpoint" else self.steps or FIXPOINT_STEPS


_CHOICES: dict[str, Any] = {"family": Family, "format": BoxFormat, "activation": Activation, "fit": Fit, "color": Color}


def _flag(key: str, value: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if value.lower() not in known:
        raise UsageError(f"Head option {key}={value!r} is not a flag. Expected true or false.")
    return known[value.lower()]


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"Head option {key}={value!r} is not a number.") from None


def _triple(key: str, value: str) -> tuple[float, ...]:
    numbers = tuple(_number(key, part) for part in value.split("/"))
    if len(numbers) != 3:
        raise UsageError(f"Head option {key}={value!r} has {len(numbers)} numbers. Expected three, as in 0.5/0.5/0.5.")
    return numbers


_PARSERS: dict[str, Any] = {"normalized": _flag, "divisor": _number, "mean": _triple, "std": _triple}
