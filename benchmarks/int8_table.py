"""Ask NVIDIA's builder what it makes of INT8: `python benchmarks/int8_table.py circuit_boards yolov8n model.onnx`.

One row per way of placing Q/DQ pairs, against FP16: entries of the builder's list of kernels and launches, peak of
activations, weights and engine size with `rtx_probe.ORACLE_IMAGES`, and what all kernels read and write for 4 images of
640 pixels. From the log of TensorRT-RTX's real builder: no GPU is needed, and no latency is claimed. Scales come from
one random image, since they do not matter to the builder. A model is an ONNX file, `circuit_boards` (the demo's), or an
Ultralytics architecture with random weights, `+KIND` for attention in it (see `architectures.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import onnx_ir as ir
from architectures import NETWORKS, exported, tier_1

from trtdeploy.backends.rtx_probe import ORACLE_IMAGES, probe_builds
from trtdeploy.core.errors import TrtdeployError
from trtdeploy.graph.load import load_model
from trtdeploy.graph.observe import Observer
from trtdeploy.graph.precision.fp16 import ToFp16
from trtdeploy.graph.precision.int8 import Form, ToInt8, layers, placement, tensors_to_calibrate
from trtdeploy.graph.prepare import Prepare
from trtdeploy.graph.surgery import operate

MIB = 1 << 20
DEMO = Path(__file__).parent.parent / "trtdeploy" / "demo_data" / "circuit_boards.onnx"
FIXED = ((4, 3, 640, 640),) * 3
Changes = list[tuple[object, str, Callable[..., object]]]


def without_sums(_self: placement.Placement, graph: ir.Graph, chosen: set[placement.Read]) -> object:
    reads: dict[ir.Value | None, list[placement.Read]] = {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if (node, index) in chosen:
                reads.setdefault(value, []).append((node, index))
    return reads


def as_usual(node: ir.Node, types: object) -> str:
    reason = own_form(node, types)
    return "" if reason == "depthwise" else reason


own_form = layers._form
SUMS = (placement.Placement, "_with_sums", without_sums)
VARIANTS: dict[str, tuple[Changes, Form]] = {
    "data and weights of layers": ([(placement, "_moves", lambda _node: False), SUMS], "standard"),
    "and Concat, MaxPool, Resize": ([(placement.Placement, "_join", lambda _self, _values: None), SUMS], "standard"),
    "with one scale": ([SUMS], "standard"),
    "and sums: **form `standard`**": ([], "standard"),
    "**form `factored`**": ([], "factored"),
    "`factored`, depthwise too": ([(layers, "_form", as_usual)], "factored"),
    "`factored`, first layer too": ([(layers.Layers, "_learned_before", lambda _self, graph: set(graph))], "factored"),
    "`factored`, head outputs too": ([(layers.Layers, "_learned_behind", lambda _self, graph: set(graph))], "factored"),
}


def main() -> int:
    """Print one table per model; return 1 when one was refused or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"default: circuit_boards {' '.join(NETWORKS)}")
    parser.add_argument("--kinds", action="store_true", help="YOLO11n with each kind of tier 1, FP16 and factored INT8")
    options = parser.parse_args()
    chosen = list(VARIANTS)
    if options.kinds:
        options.models = [f"yolo11n+{kind.name}" for kind in tier_1() if kind.levels == 1]
        chosen = ["**form `factored`**"]
    print("| network | INT8 | layers | kernels (launches) | activations | weights | engine | moved |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models or ["circuit_boards", *NETWORKS]:
            try:
                for line in _rows(name, Path(folder), chosen):
                    print(line, flush=True)
            except TrtdeployError as error:
                failed = True
                print(f"| {name} | {type(error).__name__}: {str(error).splitlines()[0]} |", flush=True)
    return int(failed)


def _rows(name: str, folder: Path, chosen: list[str]) -> Iterator[str]:
    source = DEMO if name == "circuit_boards" else Path(name)
    path = source if source.suffix == ".onnx" else exported(name, folder)
    model, _ = operate(Prepare(verify=False).run(load_model(path).model).model, verify=False)
    yield _row(name, "none: FP16", 0, model)
    for title in chosen:
        changes, form = VARIANTS[title]
        with contextlib.ExitStack() as stack:
            for owner, attribute, replacement in changes:
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
            result = ToInt8(_ranges(model), form=form).run(model)
        yield _row(name, title, result.report.details["int8"], result.model)


def _ranges(model: ir.Model) -> dict[str, float]:
    names = tensors_to_calibrate(model)
    image = np.random.default_rng(0).random((1, 3, 256, 256), np.float32)
    measured = Observer(model, names, extremes_only=True).run({model.graph.inputs[0].name or "": image})
    return {name: max(1e-3, float(np.abs(values).max())) for name, values in measured.items()}


def _row(name: str, title: str, count: int, model: ir.Model) -> str:
    proto = ir.to_proto(ToFp16().run(model).model).SerializeToString()
    image = model.graph.inputs[0].name or ""
    facts, fixed = probe_builds(proto, [{image: ORACLE_IMAGES}, {image: FIXED}])
    moved = sum(kernel.moved_bytes or 0 for kernel in fixed.kernel_list)
    cells = [
        name, title, str(count), f"{facts.kernels} ({facts.launches})", f"{facts.activation_bytes / MIB:.0f} MiB",
        f"{facts.weights_bytes / MIB:.1f} MiB", f"{facts.engine_bytes / MIB:.1f} MiB", f"{moved / MIB:.0f} MiB",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    os.environ.setdefault("YOLO_VERBOSE", "false")
    sys.exit(main())
