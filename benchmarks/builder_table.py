"""Ask NVIDIA's builder what it makes of models: `python benchmarks/builder_table.py yolo11n yolo12n+se model.onnx`.

Kernels, peak activation memory and fused attention of each model, as exported and after `trtdeploy optimize`, from the
log of TensorRT-RTX's real builder; it needs no GPU and says nothing of latency. A model is

- an ONNX file,
- the name of an Ultralytics architecture (random weights; Ultralytics, AGPL-3.0, is used here only), exported with its
  own exporter, with `+KIND` for a kind of attention after its layers 4, 6 and 8, or
- `BEFORE.onnx=AFTER.onnx`, two files to compare as they are.

Both columns are FP16 with islands of FP32, target SM86, batch 1 to 8 and 480 to 1088 pixels, with the optimum at 4
images of 640 (`rtx_probe.ORACLE_IMAGES`, which says why the optimum matters).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from architectures import NETWORKS, exported, tier_1

from trtdeploy.backends.rtx_probe import ORACLE_IMAGES, ORACLE_TARGETS, BuildFacts, ShapeRange, probe_build
from trtdeploy.core.errors import TrtdeployError, UsageError
from trtdeploy.graph.precision.fp16 import ToFp16

MIB = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 0, or 1 when a model was refused or failed."""
    options = _arguments(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            columns = _columns(name, Path(folder), options)
            row: dict[str, Any] = {
                "model": name,
                **{title: _measured(make, options) for title, make in columns.items()},
            }
            rows.append(row)
            if not options.json and not options.markdown:
                print(_line(row), flush=True)
    if options.json:
        print(json.dumps({"conditions": _conditions(options), "rows": rows}, indent=1))
    elif options.markdown:
        print(_markdown(rows, _conditions(options)))
    else:
        print(_conditions(options))
    return int(any("error" in cell for row in rows for cell in row.values() if isinstance(cell, dict)))


def _columns(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], Path]]:
    """Return how to make the files of the columns."""
    before, separator, after = name.partition("=")
    if separator:
        return {"before": lambda: Path(before), "after": lambda: Path(after)}
    columns: dict[str, Callable[[], Path]] = {"before": lambda: _as_exported(name, folder, options)}
    if not options.no_optimize:
        columns["after"] = lambda: _optimized(_source(name, folder, options.dynamo), folder, options)
    return columns


def _as_exported(name: str, folder: Path, options: argparse.Namespace) -> Path:
    """Return the model as it was exported, in FP16 unless FP32 was asked for."""
    source = _source(name, folder, options.dynamo)
    if options.fp32:
        return source
    target = folder / f"{source.stem}-fp16.onnx"
    ir.save(ToFp16().run(ir.load(source)).model, target)
    return target


def _optimized(source: Path, folder: Path, options: argparse.Namespace) -> Path:
    from trtdeploy.api.optimize import OptimizeOptions, optimize
    from trtdeploy.core.types import Precision

    target = folder / f"{source.stem}-optimized.onnx"
    precision = Precision.FP32 if options.fp32 else Precision.FP16
    optimize(source, target, OptimizeOptions(precision=precision, force=True))
    return target


def _source(name: str, folder: Path, dynamo: bool) -> Path:
    """Return the ONNX file of a model, exporting it first where `name` is an architecture."""
    return Path(name) if name.endswith(".onnx") else exported(name, folder, dynamo)


def _measured(make: Callable[[], Path], options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one model as JSON values, or the error."""
    try:
        path = make()
        facts = probe_build(path, _shapes(path), targets=options.target, timeout_s=options.timeout_s)
    except TrtdeployError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return _figures(facts)


def _figures(facts: BuildFacts) -> dict[str, Any]:
    figures = facts.to_json()
    if facts.engine is None:
        return {"error": "; ".join(str(refusal) for refusal in facts.refused), **figures}
    return figures


def _shapes(path: Path) -> dict[str, ShapeRange]:
    """Return the oracle's shapes for the model's images, `[B, 3, H, W]` or frames `[B, H, W, 3]`; fixed sides stay."""
    graph = onnx.load(str(path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    shapes: dict[str, ShapeRange] = {}
    for value in graph.input:
        dims = [d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim]
        if value.name in weights or None not in dims:
            continue
        if len(dims) != 4:
            raise UsageError(f"{path}: input {value.name!r} has open dimensions and is no image: {dims}.")
        frames = value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        wanted = [(b, h, w, c) if frames else (b, c, h, w) for b, c, h, w in ORACLE_IMAGES]
        least, best, most = (tuple(d or w for d, w in zip(dims, at, strict=True)) for at in wanted)
        shapes[value.name] = (least, best, most)
    return shapes


def _line(row: dict[str, Any]) -> str:
    """Return a row as text: kernels / peak MiB / fused attention, and kernels without synchronisation."""
    cells = [f"{row['model']:24}"]
    for title in ("before", "after"):
        cell = row.get(title)
        if cell is None:
            continue
        if "error" in cell:
            cells.append(f"{title}: {cell['error']}")
        else:
            peak = cell["activation_bytes"] // MIB
            cells.append(
                f"{title}: {cell['kernels']:4} / {peak:4} MiB / {cell['mha']} MHA ({cell['launches']} launches)"
            )
    return "  ".join(cells)


def _conditions(options: argparse.Namespace) -> str:
    shapes = " ".join("x".join(map(str, shape)) for shape in ORACLE_IMAGES)
    return (
        f"tensorrt-rtx {version('tensorrt-rtx')}, {'FP32' if options.fp32 else 'FP16'}, {','.join(options.target)}, "
        f"images {shapes} (least, best, most). Kernels count every entry of the builder's list; launches leave out "
        "synchronisation and shape arithmetic."
    )


def _markdown(rows: list[dict[str, Any]], conditions: str) -> str:
    lines = [
        "# What NVIDIA's builder makes of networks, before and after surgery",
        "",
        "Written by `make builder-table`. `yolo11n+KIND` is YOLO11n with attention behind layers 4, 6 and 8, random",
        "weights. Entries of the builder's list of kernels / peak of activations in MiB / fused attention kernels; in",
        "brackets the entries that occupy the device. No latency, and nothing measured on a GPU.",
        "",
        conditions,
        "",
        "| network | as exported | after surgery |",
        "|---|---|---|",
    ]
    for row in rows:
        cells = []
        for title in ("before", "after"):
            cell = row[title]
            figures = "{kernels} / {peak} / {mha} ({launches})"
            peak = (cell.get("activation_bytes") or 0) // MIB
            cells.append(str(cell["error"]) if "error" in cell else figures.format(**{**cell, "peak": peak}))
        lines.append(f"| {row['model']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", metavar="MODEL",
        help="file.onnx, yolo11n, yolo11n+se or a.onnx=b.onnx; default: five networks, and every kind of tier 1",
    )  # fmt: skip
    parser.add_argument("--no-optimize", action="store_true", help="only the models as they were exported")
    parser.add_argument("--fp32", action="store_true", help="FP32 instead of FP16")
    parser.add_argument("--dynamo", action="store_true", help="export architectures with torch's dynamo exporter")
    parser.add_argument("--target", action="append", help=f"compute capability; default {' '.join(ORACLE_TARGETS)}")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="time limit of one build; default 300")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/builder-table.md")
    options = parser.parse_args(arguments)
    options.models = options.models or [*NETWORKS, *(f"yolo11n+{kind.name}" for kind in tier_1() if kind.levels == 1)]
    options.target = options.target or list(ORACLE_TARGETS)
    return options


if __name__ == "__main__":
    os.environ.setdefault("YOLO_VERBOSE", "false")
    sys.exit(main())
