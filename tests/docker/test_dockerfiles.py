"""The images' files: pins, arguments, user, cache. hadolint checks the rest in `make docker-check`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from resolve_wheels import IMAGES, normal, pins

ROOT = Path(__file__).parents[2]
FILES = ("Dockerfile", "Dockerfile.jetson")
_TABLE = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("\n]")[0]
NEEDED = set(re.findall(r'^    "([\w-]+)>=[^;\n]*$', _TABLE, re.MULTILINE))
"""What trtdeploy cannot do without, on every Python."""


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments, lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def problems(text: str, root: Path = ROOT) -> list[str]:
    """Return what our rules find wrong with a Dockerfile."""
    found, steps = [], instructions(text)
    names = [name for name, _ in steps]
    arguments = dict(rest.split("=", 1) for name, rest in steps if name == "ARG" and "=" in rest)
    for name, value in arguments.items():
        if f"${{{name}}}" not in text:
            found.append(f"ARG {name} is not used")
        if name.endswith("_IMAGE") and not re.fullmatch(r"[\w./-]+:(?!latest$)[\w.-]+", value):
            found.append(f"base image {value} has no fixed tag")
    users = [rest for name, rest in steps if name == "USER"]
    if not users or users[-1] in {"root", "0"}:
        found.append("runs as root")
    found += ["no HEALTHCHECK"] if "HEALTHCHECK" not in names else []
    found += ["ADD in place of COPY"] if "ADD" in names else []
    for name, rest in steps:
        if name == "RUN" and "pip install" in rest and not {"--no-cache-dir", "--no-deps"} <= set(rest.split()):
            found.append(f"pip install keeps a cache or resolves: {rest}")
        if name == "RUN" and "apt-get install" in rest and "rm -rf /var/lib/apt/lists" not in rest:
            found.append("apt lists stay in the image")
        if name == "COPY":
            for source in rest.split()[:-1]:
                for jetpack in ("6", "7"):
                    if not (root / source.replace("${JETPACK}", jetpack)).exists():
                        found.append(f"COPY {source}: there is no such file")
    return found


@pytest.mark.parametrize("name", FILES)
def test_dockerfile_follows_the_rules(name: str) -> None:
    assert problems((ROOT / name).read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("USER 10001", "", "runs as root"),
        ("cuda:13.0.0-base-ubuntu24.04", "cuda:latest", "has no fixed tag"),
        ("FROM ${CUDA_IMAGE}", "FROM ubuntu:24.04", "ARG CUDA_IMAGE is not used"),
        ("--no-cache-dir --no-deps /src", "/src", "keeps a cache or resolves"),
        ("    && rm -rf /var/lib/apt/lists/*", "", "apt lists stay"),
        ("requirements-datacenter.txt docker", "requirements-none.txt docker", "there is no such file"),
        ("HEALTHCHECK", "LABEL", "no HEALTHCHECK"),
    ],
)
def test_rules_can_fail(old: str, new: str, problem: str) -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert old in text
    assert any(problem in found for found in problems(text.replace(old, new)))


@pytest.mark.parametrize("name", IMAGES)
def test_pins_hold_every_dependency_of_the_project(name: str) -> None:
    found = pins(ROOT / "docker" / f"requirements-{name}.txt")
    needed = {"opencv-python-headless" if package == "opencv-python" else normal(package) for package in NEEDED}
    assert len(needed) >= 9
    assert needed <= set(found)
    assert "cuda-bindings" in found
    assert found["cuda-bindings"].split(".")[0] == ("12" if name == "jetpack6" else "13")
    assert ("tomli" in found) is (name == "jetpack6")


def test_line_that_is_no_pin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("# comment\nnumpy==2.3.5\n")
    assert pins(path) == {"numpy": "2.3.5"}
    path.write_text("numpy>=2\n")
    with pytest.raises(ValueError, match=r"'numpy>=2' is no pin NAME==VERSION"):
        pins(path)


def test_context_holds_what_is_copied_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert allowed == {"LICENSE", "README.md", "pyproject.toml", "docker/requirements-*.txt", "trtdeploy"}
