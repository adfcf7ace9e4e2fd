"""Compare the pipeline with Ultralytics, a hand-written loop and the machine's limit, on one video and one network.

`python benchmarks/peers.py --minutes 20 --markdown docs/benchmarks.md --json peers.json`

Needs the packages of requirements-real.txt. The method is in `quiet_slices.py`, the modes in `peer_modes.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from peer_assets import Assets
from peer_modes import make_mode, mode_names
from peer_table import figures, limits, markdown, ratios
from quiet_slices import CORES, Child, measure, serve

from trtdeploy.core.discovery import is_installed, version_of

PACKAGES = ("trtdeploy", "ultralytics", "onnxruntime", "openvino", "torch", "opencv-python", "numpy")
MARKER = "<!-- table: benchmarks/peers.py --markdown -->"


def main() -> int:
    """Measure and report."""
    options = _arguments()
    os.environ.setdefault("YOLO_CONFIG_DIR", str(options.work.absolute() / "ultralytics"))
    assets = Assets(options.work)
    if options.serve:
        serve(make_mode(options.serve, assets), options.serve, options.answers)
        return 0
    openvino = is_installed("openvino")
    names = [name for name in mode_names(openvino) if re.search(options.only, name)]
    if not names:
        print(f"No mode matches --only {options.only!r}. Modes: {', '.join(mode_names(openvino))}.", file=sys.stderr)
        return 2
    assets.make(openvino)
    children = _start(names, options)
    try:
        slices = measure(children, options.minutes, options.slice_s, options.patience_s, _tell)
    finally:
        for child in children:
            child.close()
    found = figures(slices)
    report = markdown(found, _versions(), _machine(), names)
    print(report)
    if options.markdown:
        _write_markdown(options.markdown, report)
    if options.json:
        document = {
            "machine": _machine(),
            "versions": _versions(),
            "notes": {child.name: child.notes for child in children},
            "figures": {name: asdict(figure) for name, figure in found.items()},
            "limits": limits(found),
            "ratios": [asdict(ratio) for ratio in ratios(found)],
            "slices": [asdict(one) for one in slices],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def _start(names: list[str], options: argparse.Namespace) -> list[Child]:
    """Start a child for each mode; one that does not start is left out and said so."""
    children: list[Child] = []
    for name in names:
        command = [sys.executable, __file__, "--serve", name, "--work", str(options.work)]
        try:
            children.append(Child(name, command, options.work / "children.log"))
        except RuntimeError as error:
            _tell(f"left out: {error}")
            continue
        _tell(f"started {name} {children[-1].notes or ''}")
    return children


def _write_markdown(path: Path, report: str) -> None:
    """Replace the table of the document at `path`, or write the report alone when there is no document."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"{MARKER}\n"
    before, _, rest = text.partition(MARKER)
    after = rest.partition(MARKER)[2]
    path.write_text(f"{before}{MARKER}\n\n{report}\n{MARKER}{after or chr(10)}", encoding="utf-8")


def _versions() -> dict[str, str]:
    versions = {name: version_of(name) for name in PACKAGES}
    if versions["trtdeploy"] is None:
        from trtdeploy import __version__

        versions["trtdeploy"] = __version__
    return {"Python": platform.python_version()} | {k: v for k, v in versions.items() if v is not None}


def _machine() -> str:
    model, flags = "", set()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = (part.strip() for part in line.partition(":"))
            model = model or (value if key == "model name" else "")
            flags |= set(value.split()) if key == "flags" else set()
    wide = [name for name, flag in (("AMX", "amx_bf16"), ("AVX-512", "avx512f"), ("AVX2", "avx2")) if flag in flags]
    return f"{CORES} cores of {model or platform.machine()} with {wide[0] if wide else 'no wide vectors'}"


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long to measure (20)")
    parser.add_argument("--slice-s", type=float, default=1.5, help="seconds of a slice (1.5)")
    parser.add_argument("--patience-s", type=float, default=20.0, help="longest wait for a quiet machine (20)")
    parser.add_argument("--only", default="", metavar="REGEX", help="modes to run (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table, or put it into the document")
    default = Path(tempfile.gettempdir()) / "trtdeploy-peers"
    parser.add_argument("--work", type=Path, default=default, help=f"folder of models and video ({default})")
    parser.add_argument("--serve", metavar="MODE", help=argparse.SUPPRESS)
    parser.add_argument("--answers", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
