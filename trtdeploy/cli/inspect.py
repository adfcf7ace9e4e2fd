"""`trtdeploy inspect`: what is in an engine or an ONNX model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trtdeploy.cli.console import Screen, megabytes
from trtdeploy.cli.engine_text import classes_text, info_rows, print_passes
from trtdeploy.cli.options import FilePath, with_screen

if TYPE_CHECKING:
    from trtdeploy.core.engine_info import EngineInfo


@click.command("inspect")
@click.argument("file", type=FilePath)
@with_screen
def command(screen: Screen, /, file: Path) -> None:
    """Say what is in an engine or an ONNX model.

    Of an engine: classes, shapes, precision, the passes applied and refused, hash of the model, versions. Of an ONNX
    model: inputs, outputs, operator set, and the detector head that `build` would recognise. The network is not run.
    """
    from trtdeploy.cli.onnx_facts import describe_model, is_plain_onnx

    if is_plain_onnx(file):
        facts = describe_model(file)
        screen.document(facts)
        if not screen.as_json:
            _print_model(screen, facts)
        return
    from trtdeploy.engine.sniff import read_info

    info = read_info(file)
    size_bytes = file.stat().st_size
    checksum = plan_checksum(file) if info.plan is not None else None
    extra = {"file_sha256": checksum[0], "file_verified": checksum[1]} if checksum is not None else {}
    screen.document({"kind": "engine", "path": str(file), "size_bytes": size_bytes, **extra, **info.to_dict()})
    if not screen.as_json:
        _print_engine(screen, file, size_bytes, info, checksum)


def plan_checksum(file: Path) -> tuple[str, bool]:
    """Return the SHA-256 of a plan, and whether there is a checksum beside it, which it then has.

    Raises:
        EngineError: The plan is not the one that was written.
    """
    from trtdeploy.core.plan_file import digest_of, verify_plan

    verified = verify_plan(file)
    return verified or digest_of(file), verified is not None


def _print_engine(
    screen: Screen, file: Path, size_bytes: int, info: EngineInfo, checksum: tuple[str, bool] | None
) -> None:
    """Print an engine's metadata for people."""
    told = []
    if checksum is not None:
        state = "as it was built" if checksum[1] else f"not verified: there is no {file.name}.sha256 beside it"
        told = [("file hash", f"{checksum[0]} ({state})")]
    versions = ", ".join(f"{name} {version}" for name, version in info.versions.items())
    source = info.source
    screen.fields(
        [
            ("engine", f"{file} ({megabytes(size_bytes)})"),
            ("backend", info.backend),
            *info_rows(info),
            ("source", f"{source.name}, opset {source.opset}" + (f", by {source.producer}" if source.producer else "")),
            ("sha256", source.sha256),
            *told,
            ("versions", versions or "not recorded"),
        ]
    )
    print_passes(screen, info.passes)


def _print_model(screen: Screen, facts: dict[str, Any]) -> None:
    """Print the facts of an ONNX model for people."""
    screen.fields(
        [
            ("model", f"{facts['path']} ({megabytes(facts['size_bytes'])}), not an engine"),
            ("producer", facts["producer"] or "not recorded"),
            ("opset", facts["opset"]),
            ("sha256", facts["sha256"]),
            ("operators", ", ".join(f"{name} {count}" for name, count in list(facts["operators"].items())[:10])),
            ("parameters", f"{facts['parameters']:,}"),
            ("inputs", "\n".join(facts["inputs"])),
            ("outputs", "\n".join(facts["outputs"])),
            ("classes", classes_text(facts["class_names"])),
            ("head", facts["head"] or f"not recognised: {facts['head_refusal']}"),
        ]
    )
    if facts["head"]:
        screen.say(f"\nBuild an engine: trtdeploy build {shlex.quote(facts['path'])}")
