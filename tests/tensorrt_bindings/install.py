"""Downloads the Python bindings of the TensorRT versions that tests/conformance checks into this environment.

They are 1 to 2 MB each. NVIDIA's libraries behind them are not needed: the tests compile stubs. `make test` runs this.
Needs nothing but Python and pip: it runs before anything is installed.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "tensorrt-cu13-bindings"
VERSIONS = ("10.13.3.9", "10.16.1.11", "11.4.0.106")
"""The oldest with wheels for CUDA 13 that boards ship (JetPack 7.1), the last 10.x, and the newest."""
ROOT = Path(sys.prefix) / "share" / "tensorrt-bindings"


def unsupported() -> str | None:
    """Return why NVIDIA has no wheels for this platform, or None where it has."""
    machine, python = platform.machine(), sys.version_info[:2]
    if sys.platform == "linux" and machine in {"x86_64", "aarch64"} and (3, 10) <= python <= (3, 13):
        return None
    return (
        f"{PACKAGE} has wheels for Linux on x86-64 and aarch64 with Python 3.10 to 3.13; "
        f"this is {sys.platform} on {machine} with Python {python[0]}.{python[1]}"
    )


def install(version: str) -> None:
    """Download and unpack one version unless it is there.

    Raises:
        subprocess.CalledProcessError: pip could not download it; pip has said why.
    """
    target = ROOT / version
    if target.is_dir():
        return
    ROOT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*command, "--dest", folder, f"{PACKAGE}=={version}"], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        unpacked = Path(folder) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        unpacked.rename(target)


def main() -> int:
    """Install every version; say so and succeed where there are no wheels, fail where there should be."""
    if reason := unsupported():
        print(f"The tests of TensorRT's Python bindings will be skipped: {reason}.")
        return 0
    for version in VERSIONS:
        install(version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
