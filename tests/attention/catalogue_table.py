"""The table of the catalogue: every kind, and whether module, export, surgery and NVIDIA's builder pass.

    python tests/attention/catalogue_table.py            # runs every check and writes docs/attention.md
    python tests/attention/catalogue_table.py se cbam    # runs those of some kinds and prints their rows

`docs/attention.md` is checked in; the tests run the same checks and compare.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import catalogue_checks as checks

from trtdeploy.attention import catalogue
from trtdeploy.attention.kind import AttentionKind

PAGE = Path(__file__).parents[2] / "docs" / "attention.md"
PASS = "pass"
_HEADER = """# Attention: what works

Written by `make attention-table`, which runs every check anew; `make test` runs them too and compares with this page.

- **M**: the torch module equals an independent naive reference in numpy within 1e-5 (relative), at odd sizes.
- **X**: both exporters of torch (`dynamo`, `torchscript`), dynamic shapes; ONNX Runtime equals torch within 1e-4.
- **S**: in those graphs, unmarked, between convolutions, surgery finds the block under its name and fuses it; ONNX
  Runtime gives the same before and after within 1e-5 on random and drawn images, batch 1, 3 and 8, odd sizes.
- **B**: TensorRT-RTX's parser and builder build the fused graph for SM86, FP32 and FP16, fixed and dynamic shapes. Not
  measured on a GPU. In brackets, with FP16 and dynamic shapes: kernels of the block between two convolutions, and fused
  attention kernels (MHA) of all softmax attentions.

| kind | name | M | X | S | B |
|---|---|---|---|---|---|
"""


def module(kind: AttentionKind, _folder: Path) -> str:
    """Return `pass`, or which case of the kind's module differs from the naive reference."""
    for case in kind.cases:
        gap = checks.module_gap(kind, case)
        if not gap <= 1e-5:
            return f"{case}: differs by {gap:.1e}"
    return PASS


def export(kind: AttentionKind, folder: Path) -> str:
    """Return `pass`, or which exported case differs from torch."""
    for case in kind.cases:
        for exporter in checks.EXPORTERS:
            gap = checks.export_gap(kind, case, checks.exported(kind, case, exporter, folder), inside=True)
            if not gap <= 1e-4:
                return f"{case}, {exporter}: differs by {gap:.1e}"
    return PASS


def surgery(kind: AttentionKind, folder: Path) -> str:
    """Return `pass`, or in which graph the block is not found, not fused, or gives other results."""
    for case in kind.cases:
        for exporter in checks.EXPORTERS:
            result = checks.surgery(checks.exported(kind, case, exporter, folder), case)
            if kind.name not in result.fused:
                found = ", ".join(f"{b['kind']} ({b.get('reason') or 'fused'})" for b in result.blocks) or "nothing"
                return f"{case}, {exporter}: found {found}"
            if not result.gap <= 1e-5:
                return f"{case}, {exporter}: differs by {result.gap:.1e}"
    return PASS


def builder(kind: AttentionKind, folder: Path) -> str:
    """Return `pass` with figures, or what the builder says of the kind's first case."""
    case = kind.cases[0]
    model = checks.surgery(checks.exported(kind, case, "dynamo", folder), case).model
    found = checks.build(model, case)
    if isinstance(found, str):
        return found
    fused = f", {found.mha} MHA of {checks.softmax_attentions(model)}" if checks.softmax_attentions(model) else ""
    return f"{PASS} ({found.launches}{fused})"


COLUMNS: Mapping[str, Callable[[AttentionKind, Path], str]] = {
    "M": module, "X": export, "S": surgery, "B": builder,
}  # fmt: skip


def row(kind: AttentionKind, cells: Mapping[str, str]) -> str:
    """Return a line of the table."""
    return f"| {kind.title} | `{kind.name}` | " + " | ".join(cells[column] for column in COLUMNS) + " |"


def read(page: Path = PAGE) -> dict[str, dict[str, str]]:
    """Return the cells of the checked-in table by kind and column."""
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| (.+) \|$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: dict(zip(COLUMNS, cells.split(" | "), strict=True)) for name, cells in rows}


def run(kind: AttentionKind) -> dict[str, str]:
    """Run every check of a kind."""
    with tempfile.TemporaryDirectory() as folder:
        return {column: check(kind, Path(folder)) for column, check in COLUMNS.items()}


def main(names: list[str]) -> None:
    lines = []
    for kind in [catalogue.kind(name) for name in names] or sorted(catalogue.kinds(), key=lambda k: (k.tier, k.name)):
        lines.append(row(kind, run(kind)))
        print(lines[-1], flush=True)
    if not names:
        rest = PAGE.read_text(encoding="utf-8").partition("\n## ") if PAGE.exists() else ("", "", "")
        PAGE.write_text(_HEADER + "\n".join(lines) + "\n" + "".join(rest[1:]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
