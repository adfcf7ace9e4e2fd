"""Resolve every pinned wheel of the images for the platform and Python that they run on; `make docker-check` runs it.

Nothing is installed. For each image pip gets the file of pins with dependencies: it must find a wheel for each, and add
none. TensorRT's libraries are on NVIDIA's index; where that cannot be reached they are named and not checked.

Usage: python tests/docker/resolve_wheels.py [IMAGE ...]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docker"


@dataclass(frozen=True)
class Image:
    """What an image runs: Python and the newest C library's tag, older ones are accepted too."""

    python: str
    machine: str
    glibc: int

    @property
    def platforms(self) -> list[str]:
        return [f"manylinux_2_{minor}_{self.machine}" for minor in range(self.glibc, 16, -1)] + [
            f"manylinux2014_{self.machine}"
        ]


IMAGES = {
    "jetpack6": Image("3.10", "aarch64", 35),
    "jetpack7": Image("3.12", "aarch64", 39),
    "datacenter": Image("3.12", "x86_64", 39),
}


def normal(name: str) -> str:
    """Return a distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    """Return name and version of each pin; a line that is none raises a `ValueError`."""
    found = {}
    for line in path.read_text().splitlines():
        if not line or line.startswith(("#", "--extra-index-url ")):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
        if match is None:
            raise ValueError(f"{path.name}: {line!r} is no pin NAME==VERSION")
        found[normal(match[1])] = match[2]
    return found


def resolve(image: Image, requirements: list[str]) -> dict[str, str]:
    """Return what pip would install, name and version.

    Raises:
        RuntimeError: pip finds no wheel.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--target", folder, "--only-binary", ":all:", "--implementation", "cp"]
        command += ["--python-version", image.python, "--report", str(report)]
        command += [part for platform in image.platforms for part in ("--platform", platform)]
        done = subprocess.run([*command, *requirements], capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise RuntimeError("; ".join(errors) or done.stderr)
        items = json.loads(report.read_text())["install"]
        return {normal(item["metadata"]["name"]): item["metadata"]["version"] for item in items}


def check(name: str) -> list[str]:
    """Return what is wrong with the pins of one image; prints what was found."""
    image = IMAGES[name]
    wanted = pins(FOLDER / f"requirements-{name}.txt")
    try:
        found = resolve(image, [f"{package}=={version}" for package, version in wanted.items()])
    except RuntimeError as error:
        return [f"{name}: {error}"]
    problems = [
        f"{name}: {package}=={version} is needed and not pinned" for package, version in found.items() - wanted.items()
    ]
    print(f"{name}: {len(found)} wheels for Python {image.python} on {image.machine}")
    for package, version in pins(FOLDER / f"requirements-tensorrt-{name}.txt").items():
        try:
            resolve(image, ["--no-deps", f"{package}=={version}"])
            print(f"{name}: {package}=={version} is on PyPI")
        except RuntimeError:
            print(f"{name}: {package}=={version} is not on PyPI: NVIDIA's index has it, not checked here")
    return problems


def main() -> int:
    """Check the images named, or all; return 1 where something is wrong."""
    problems = [problem for name in sys.argv[1:] or IMAGES for problem in check(name)]
    for problem in problems:
        print(f"ERROR {problem}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
