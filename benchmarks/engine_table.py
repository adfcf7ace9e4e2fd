"""Build networks into TensorRT-RTX engines on a CPU: `python benchmarks/engine_table.py yolo11n yolo12n+se model.onnx`.

Each model goes through one `trtdeploy build` for three GPUs, with NMS and the letterbox inside, and the table says what
the engine's metadata say. A model is an ONNX file, or an Ultralytics architecture as in `architectures`. No latency:
the engines run on a GPU alone, and nothing here needs one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from architectures import NETWORKS, exported, tier_1

import trtdeploy

OPTIONS = "--backend tensorrt-rtx --target sm80,sm86,sm89 --fp16 --dynamic 480:640:1080"
DEMO = Path(trtdeploy.__file__).parent / "demo_data" / "circuit_boards.onnx"
MIB = 1 << 20
HEADER = """# Networks as TensorRT-RTX engines

Written by `make engine-table`: each network through

    trtdeploy build MODEL {options}

by the builder of tensorrt-rtx {version} on a CPU. One network size (the optimum, 640 pixels), batch 1, NMS inside,
frames of 32x32 to 2160x3840 pixels in. No latency was measured; nothing here was measured on a GPU.

Plan: size of the file. Kernels: entries of the builder's list; launches leave out synchronisation and shape
arithmetic; MHA: fused attention kernels. Activations: their peak at the largest frame, most of which is the frame
itself on its way into the network. Seconds: the whole command on a shared machine with 2 cores, reading, surgery and
its comparison in ONNX Runtime, and three builds included. `yolo11n+KIND` is YOLO11n with attention behind layers 4, 6
and 8 (`multi_scale`, which takes three maps: before the head); its own partial self-attention is the one more block
that each has. At batch 1 the builder does not fuse attention of one head over few positions (self_attention at 40x40
and 20x20 pixels), which it does with an open batch (builder-table.md). All
weights but those of circuit_boards, trtdeploy's own detector, are random.

| network | attention, fused | targets | plan, MiB | kernels | launches | MHA | activations, MiB | seconds |
|---|---|---|---:|---:|---:|---:|---:|---:|"""


def main(arguments: list[str] | None = None) -> int:
    """Print the page; return 0, or 1 when an engine could not be built."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", metavar="MODEL",
        help="file.onnx, yolo11n or yolo11n+se; default: the demo's model, five networks, every kind of tier 1",
    )  # fmt: skip
    models = parser.parse_args(arguments).models
    models = models or [str(DEMO), *NETWORKS, *(f"yolo11n+{kind.name}" for kind in tier_1())]
    print(HEADER.format(options=OPTIONS, version=version("tensorrt-rtx")))
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in models:
            run = _build(Path(name) if name.endswith(".onnx") else exported(name, Path(folder)), Path(folder))
            failed += run.returncode != 0
            line = _row(name, json.loads(run.stdout)) if run.returncode == 0 else f"| {name} | refused |"
            print(line, flush=True)
            print(line if run.returncode == 0 else f"{name}: {run.stderr}", file=sys.stderr)
    return int(failed > 0)


def _build(model: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["build", str(model), *OPTIONS.split(), "-o", str(folder / "x.engine"), "--force", "--json"]
    return subprocess.run([sys.executable, "-m", "trtdeploy", *command], capture_output=True, text=True, check=False)


def _row(name: str, document: dict[str, Any]) -> str:
    """Return a line of the table from what `build --json` printed."""
    info = document["info"]
    plan = info["plan"]
    cells = [
        Path(name).stem,
        str(sum(_fuses(change) for item in info["passes"] for change in item["changes"])),
        " ".join(plan["targets"]),
        f"{document['size_bytes'] / MIB:.1f}",
        *(str(plan[figure]) for figure in ("kernels", "launches", "mha")),
        f"{plan['activation_bytes'] / MIB:.0f}",
        f"{document['seconds']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _fuses(change: str) -> bool:
    """Return whether a pass says that a block of attention became one node."""
    return " is one node Trtdeploy" in change


if __name__ == "__main__":
    os.environ.setdefault("YOLO_VERBOSE", "false")
    sys.exit(main())
