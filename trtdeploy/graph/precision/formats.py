"""The 16-bit floating-point formats, and what may be computed in them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, kw_only=True)
class Format:
    """A 16-bit format.

    Attributes:
        element_type: Its ONNX type.
        name: What messages call it.
        pass_name: Name of the pass that gives it.
        largest: Its largest number.
        smallest: The largest number that it rounds to zero.
        normal: The smallest number that has all its digits.
        max_sum: Most summands of a sum or mean in it: with them an accumulator of this format loses at most the last
            two digits of its result's three.
        max_integer: Up to it, every integer is exact.
        refused: Operators that NVIDIA's builders do not take in it, although ONNX has them.
    """

    element_type: ir.DataType
    name: str
    pass_name: str
    largest: float
    smallest: float
    normal: float
    max_sum: int
    max_integer: int
    refused: frozenset[str] = frozenset()

    @property
    def suffix(self) -> str:
        """Ends the names of copies in this format."""
        return f"_{self.pass_name}"


FP16 = Format(
    element_type=ir.DataType.FLOAT16, name="FP16", pass_name="fp16",
    largest=65504.0, smallest=2.0**-25, normal=2.0**-14, max_sum=32, max_integer=2048,
)  # fmt: skip
BF16 = Format(
    element_type=ir.DataType.BFLOAT16, name="BF16", pass_name="bf16",
    largest=(2.0 - 2.0**-7) * 2.0**127, smallest=2.0**-134, normal=2.0**-126, max_sum=4, max_integer=256,
    refused=frozenset({"ConvTranspose", "HardSwish", "Mish"}),  # TensorRT-RTX 1.7.1, one operator at a time
)  # fmt: skip
FORMATS = {each.element_type: each for each in (FP16, BF16)}
