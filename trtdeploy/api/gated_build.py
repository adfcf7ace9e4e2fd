"""Builds an engine, shows it images, and puts it in its place only when it detects what its model detects."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from trtdeploy.api.draft import Draft
from trtdeploy.api.gate_options import GateOptions, gate_images
from trtdeploy.api.passes import Progress
from trtdeploy.backends.base import SessionOptions
from trtdeploy.core.engine_info import EngineInfo, GateInfo
from trtdeploy.core.errors import BuildError, GateError
from trtdeploy.core.files import atomic_write
from trtdeploy.core.plan_file import record_info
from trtdeploy.core.staging import Staging, open_staging
from trtdeploy.engine.sniff import EngineKind, read_info, sniff
from trtdeploy.engine.stamp import stamp
from trtdeploy.engine.tolerance import Tolerance

if TYPE_CHECKING:
    from trtdeploy.api.gate import Gate, Infer
    from trtdeploy.api.second_try import Block
    from trtdeploy.engine.gate import GateReport

REPORT_SUFFIX = ".gate.json"
_NOT_YET = GateInfo(verdict="ungated", reason="the gate runs after the engine is built; its verdict is beside it")


def build_gated(draft: Draft, target: Path, options: GateOptions, step: Progress) -> GateReport | None:
    """Build an engine at `target` after it passed the gate; what stands there stays until then.

    Args:
        draft: What to build.
        target: Path of the engine.
        options: Whether and with what it is compared.
        step: Called with the name of each step as it starts.

    Returns:
        What the gate found; None where it did not run.

    Raises:
        GateError: The engine diverges, or the gate is asked for and cannot run; nothing is at the target.
        BuildError: The backend refused the model.
        UsageError, SourceError: Of the images; see `gate_images`.
        SinkError: A file cannot be written.
    """
    cannot_run = draft.backend.availability().cannot_run
    if options.mode == "enforce" and cannot_run:
        raise GateError(
            f"The gate cannot run: {cannot_run} Build where the engine can run, or without --gate enforce; the engine "
            "is then written ungated."
        )
    ungated = "it was switched off" if options.mode == "off" else cannot_run
    with open_staging(target) as staging:
        if ungated:
            draft.build(staging.path, GateInfo(verdict="ungated", reason=ungated))
            staging.publish()
            return None
        report = _build_and_check(draft, staging, target, options, step)
        staging.publish()
        return report


def _build_and_check(
    draft: Draft, staging: Staging, target: Path, options: GateOptions, step: Progress
) -> GateReport | None:
    """Build, gate, and where FP16 is at fault build once more; write the verdict into the engine.

    Raises:
        GateError: The engine diverges.
    """
    from trtdeploy.api.gate import Gate, images_wanted
    from trtdeploy.graph.reference import ReferenceRunError

    images = gate_images(options, images_wanted(draft.largest_batch))
    info = _build(draft, staging.path)
    step("gate")
    try:
        gate = Gate(draft.reference(), info, images, options.tolerance or Tolerance.of(draft.precision))
        report = gate.check(lambda: _open(draft, staging.path, info))
        if report.verdict == "failed" and draft.lowers_precision:
            info, report = _second_try(draft, staging, info, gate, report, step)
    except ReferenceRunError as error:
        reason = f"the model does not run in ONNX Runtime: {error}"
        if options.mode == "enforce":
            raise GateError(f"The gate cannot run: {reason}. Build with --gate off.") from error
        _record(staging.path, GateInfo(verdict="ungated", reason=reason))
        return None
    if report.verdict == "failed":
        refused = options.mode != "warn"
        text = _report_text(report, staging.path, target, refused=refused)
        with atomic_write(_report_path(target if refused else staging.path)) as temporary:
            temporary.write_text(text)
        if refused:
            raise GateError(_refusal(report, target))
    _record(staging.path, report.info)
    return report


def _second_try(
    draft: Draft, staging: Staging, info: EngineInfo, gate: Gate, report: GateReport, step: Progress
) -> tuple[EngineInfo, GateReport]:
    """Look for the blocks that fail in FP16, and build the engine with them in FP32.

    Returns:
        Metadata and report of the engine that is at the staging path now.
    """
    from trtdeploy.api.second_try import blocks_of, names_of, smallest_set

    reports = draft.reports
    blocks = blocks_of(draft.finish())
    trial = staging.path.with_name(f".trial-{staging.path.name}")

    def passes(kept: list[Block]) -> bool:
        step(f"second try: {len(kept)} of {len(blocks)} blocks in FP32")
        try:
            built = _build(draft, trial, names_of(kept))
        except BuildError:
            return False  # of a mixture that the builder does not take, others may still do
        return gate.check(lambda: _open(draft, trial, built)).verdict != "failed"

    found = smallest_set(blocks, passes)
    if not found:
        draft.reports = reports
        failure = f"it is not a matter of FP16: with all {len(blocks)} blocks in FP32 it fails too"
        return info, replace(report, failures=(report.reason, failure, *report.failures[1:]))
    step(f"second try: {', '.join(block.name for block in found)} in FP32")
    info = _build(draft, staging.path, names_of(found))
    kept = [block.name for block in found]
    return info, gate.check(lambda: _open(draft, staging.path, info), kept)


def _build(draft: Draft, path: Path, keep: Collection[str] = ()) -> EngineInfo:
    """Build an engine and return its metadata, with what the builder added."""
    draft.build(path, _NOT_YET, keep)
    return read_info(path)


@contextlib.contextmanager
def _open(draft: Draft, path: Path, info: EngineInfo) -> Iterator[Infer]:
    session = draft.backend.open(path, info, SessionOptions())
    try:
        yield session.create_context().infer
    finally:
        session.close()


def _record(path: Path, gate: GateInfo) -> None:
    """Write the verdict into the engine's metadata, or, where its bytes must stay the builder's, beside it."""
    info = msgspec.structs.replace(read_info(path), gate=gate)
    if sniff(path) is EngineKind.ONNX_ENGINE:
        stamp(path, info)
    else:
        record_info(path, info)


def _report_path(path: Path) -> Path:
    return path.with_name(path.name + REPORT_SUFFIX)


def _report_text(report: GateReport, staged: Path, target: Path, *, refused: bool) -> str:
    document = {"engine": target.name, "refused": refused, **report.to_dict()}
    return json.dumps(document, indent=2).replace(json.dumps(str(staged))[1:-1], json.dumps(str(target))[1:-1]) + "\n"


def _refusal(report: GateReport, target: Path) -> str:
    """Return the message for an engine that is refused."""
    lines = "\n".join(report.lines())
    return (
        f"{target} is refused: the engine does not detect what its model detects in ONNX Runtime, so it was not "
        f"written.\n{lines}\nThe whole report is in {_report_path(target)}. Build in FP32, with another backend or "
        "version of its library; --gate warn writes the engine all the same."
    )
