"""The table of half arithmetic: how far every kind of attention in FP16 and BF16 is from FP32.

    python tests/attention/half_table.py            # measures every kind and case and writes docs/fp16.md
    python tests/attention/half_table.py se cbam    # measures some kinds and prints their rows

`docs/fp16.md` is checked in; the tests measure again and compare with its bounds.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import half_checks as checks
import onnx_ir as ir

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind

PAGE = Path(__file__).parents[2] / "docs" / "fp16.md"
BOUNDED = ("FP16", "BF16", "x1e-4")
LARGE = {"x1e2": 1e2, "x1e3": 1e3}
ROUNDING = 3.0
"""How many times the effect of rounded inputs and weights alone a large input may cost."""
_BEGIN, _END = "<!-- table -->\n", "<!-- end -->\n"
_HEAD = """| kind | case | FP16 | BF16 | x1e-4 | x1e2 | x1e3 | torch |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Bounds:
    """What the page promises of one case: the bound of each column of `BOUNDED`."""

    columns: dict[str, float]


def row(kind: AttentionKind, index: int) -> str:
    """Measure a case and return its line."""
    case = kind.cases[index]
    found = {
        "FP16": checks.usual_gap(kind, index, ir.DataType.FLOAT16),
        "BF16": checks.usual_gap(kind, index, ir.DataType.BFLOAT16),
        "x1e-4": checks.scaled_gap(kind, index, 1e-4),
    }
    cells = [f"{found[name]:.1e} < {bound_of(found[name]):.0e}" for name in BOUNDED]
    model = checks.fused(kind.name, index)
    for factor in LARGE.values():
        maps = checks.scaled(checks.images(case, checks.SHAPE), factor)
        cells.append(f"{checks.scaled_gap(kind, index, factor):.1e} ({checks.rounding_gaps(model, [maps])[0]:.1e})")
    cells.append(f"{checks.in_torch(kind, case):.1e}")
    return f"| `{kind.name}` | {index + 1} | " + " | ".join(cells) + " |"


def bound_of(measured: float) -> float:
    """Return the bound that is stated for what was measured: a third more, rounded up to 1, 2 or 5 times a power."""
    wanted = measured * 4 / 3
    return next(step * 10.0**power for power in range(-6, 3) for step in (1, 2, 5) if step * 10.0**power >= wanted)


def read(page: Path = PAGE) -> dict[tuple[str, int], Bounds]:
    """Return the bounds of the checked-in page by kind and index of the case."""
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    found = {}
    for name, number, cells in rows:
        bounds = [float(cell.partition(" < ")[2]) for cell in cells.split(" | ")[: len(BOUNDED)]]
        found[name, int(number) - 1] = Bounds(dict(zip(BOUNDED, bounds, strict=True)))
    return found


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    lines = []
    for kind in [catalogue.kind(name) for name in names] or sorted(catalogue.kinds(), key=lambda k: (k.tier, k.name)):
        for index in range(len(kind.cases)):
            lines.append(row(kind, index))
            print(lines[-1], flush=True)
        checks.fused.cache_clear()
    if not names:
        text = PAGE.read_text(encoding="utf-8")
        before, _, rest = text.partition(_BEGIN)
        after = rest.partition(_END)[2]
        PAGE.write_text(f"{before}{_BEGIN}{_HEAD}" + "\n".join(lines) + f"\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
