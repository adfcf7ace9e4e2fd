"""The options `--dynamic`, `--batch` and `--imgsz` as text."""

from __future__ import annotations

import re

from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import BatchRange, Size, SizeRange

MAX_SIDE = 16384
"""Pixels; a network input of 16384x16384 alone takes 3 GB."""
MAX_BATCH = 1024


def parse_dynamic(text: str) -> SizeRange:
    """Parse `480:640:1080` (square) or `480x640:640x640:1088x1920` (height x width): minimum, optimum, maximum.

    Raises:
        UsageError: Not three sizes, a side is not a positive whole number, or they are not in order.
    """
    parts = text.strip().split(":")
    if len(parts) != 3:
        raise UsageError(
            f"--dynamic {text!r} has {len(parts)} sizes. Expected three, MIN:OPT:MAX, such as 480:640:1080 or "
            "480x640:640x640:1088x1920. Use --imgsz for one fixed size."
        )
    smallest, best, largest = (_size(part, f"--dynamic {text!r}") for part in parts)
    for name, low, high in (("min", smallest, best), ("opt", best, largest)):
        if not low.fits(high):
            above = "opt" if name == "min" else "max"
            raise UsageError(
                f"--dynamic {text!r}: {name} {low} is larger than {above} {high}. Expected min <= opt <= max in height "
                "and in width."
            )
    return SizeRange(smallest, best, largest)


def parse_imgsz(text: str) -> SizeRange:
    """Parse `640` (square) or `480x640` (height x width), one fixed size.

    Raises:
        UsageError: A side is not a positive whole number.
    """
    if ":" in text:
        raise UsageError(f"--imgsz {text!r} is a range. Expected one size, such as 640; use --dynamic for a range.")
    return SizeRange.fixed(_size(text, f"--imgsz {text!r}"))


def parse_batch(text: str) -> BatchRange:
    """Parse `4` (fixed) or `1:4:8`: minimum, optimum, maximum.

    Raises:
        UsageError: Not one or three numbers, not positive whole numbers, or not in order.
    """
    what = f"--batch {text!r}"
    parts = text.strip().split(":")
    if len(parts) not in {1, 3}:
        raise UsageError(f"{what} has {len(parts)} numbers. Expected one, such as 4, or MIN:OPT:MAX, such as 1:4:8.")
    numbers = [_positive(part, what, MAX_BATCH) for part in parts]
    smallest, best, largest = numbers if len(numbers) == 3 else numbers * 3
    if not smallest <= best <= largest:
        raise UsageError(f"{what} is not in order. Expected min <= opt <= max, such as 1:4:8.")
    return BatchRange(smallest, best, largest)


def _size(text: str, what: str) -> Size:
    sides = re.split("[xX×]", text.strip())
    if len(sides) > 2:
        raise UsageError(f"{what}: {text!r} has {len(sides)} sides. Expected one, or height x width, such as 480x640.")
    numbers = [_positive(side, what, MAX_SIDE) for side in sides]
    return Size(numbers[0], numbers[-1])


def _positive(text: str, what: str, largest: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text.strip()):
        raise UsageError(f"{what}: {text.strip()!r} is not a whole number. Expected a number from 1 to {largest}.")
    number = int(text)
    if not 1 <= number <= largest:
        raise UsageError(f"{what}: {number} is out of range. Expected a number from 1 to {largest}.")
    return number
