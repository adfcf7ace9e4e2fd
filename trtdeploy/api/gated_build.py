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
from trtdeploy.core.types import Precision
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
            "is then written ungated. --gate emulated compares its graph with 16-bit arithmetic emulated here."
        )
    ungated = "it was switched off" if options.mode == "off" else cannot_run
    with open_staging(target) as staging:
        if cannot_run and options.mode == "emulated":
            report = _check_twin_and_build(draft, staging, target, options, step)
        elif ungated:
            draft.build(staging.path, GateInfo(verdict="ungated", reason=ungated))
            report = None
        else:
            report = _build_and_check(draft, staging, target, options, step)
        staging.publish()
        return report


def _build_and_check(
    draft: Draft, staging: Staging, target: Path, options: GateOptions, step: Progress
) -> GateReport | None:
    """Build, gate, and where the precision is at fault build once more; write the verdict into the engine.

    Raises:
        GateError: The engine diverges.
    """
    from trtdeploy.graph.reference import ReferenceRunError

    try:
        report, _ = _checked(draft, staging.path, options, step)
    except ReferenceRunError as error:
        reason = f"the model does not run in ONNX Runtime: {error}"
        if options.mode in {"enforce", "emulated"}:
            raise GateError(f"The gate cannot run: {reason}. Build with --gate off.") from error
        _record(staging.path, GateInfo(verdict="ungated", reason=reason))
        return None
    if report.verdict == "failed":
        refused = options.mode != "warn"
        _write_report(report, staging.path, target, refused=refused)
        if refused:
            raise GateError(_refusal(report, target, "the engine does not detect"))
    _record(staging.path, report.info)
    return report


def _check_twin_and_build(
    draft: Draft, staging: Staging, target: Path, options: GateOptions, step: Progress
) -> GateReport:
    """Gate the emulated twin of an engine that cannot run here, then build the engine with the same nodes kept.

    Raises:
        GateError: The twin diverges, or the gate cannot run; no engine was built.
        BuildError: The backend refused the model.
    """
    from trtdeploy.graph.reference import ReferenceRunError

    twin, path = draft.emulated(), staging.path.with_name(f".emulated-{staging.path.name}")
    try:
        report, kept = _checked(twin, path, options, step)
    except ReferenceRunError as error:
        raise GateError(
            f"The gate cannot run: the model does not run in ONNX Runtime: {error}. Build with --gate off."
        ) from error
    if report.verdict == "failed":
        _write_report(report, path, target, refused=True)
        raise GateError(_refusal(report, target, f"its graph, {_emulating(draft)}, does not detect"))
    reason = f"{_emulating(draft)}, because the engine cannot run here: {report.reason}"
    report = replace(report, verdict="emulated" if report.verdict == "passed" else report.verdict, reason=reason)
    draft.build(staging.path, report.info, kept)
    return report


def _emulating(draft: Draft) -> str:
    """Return in words what an emulated twin runs like."""
    if draft.precision is Precision.FP32:
        return "in FP32 on the CPU"
    return f"in {draft.precision.value.upper()}, emulated on the CPU"


def _checked(draft: Draft, path: Path, options: GateOptions, step: Progress) -> tuple[GateReport, list[str]]:
    """Build an engine at `path` and gate it; where the precision is at fault build once more.

    Returns:
        The report, and the patterns of the nodes that the engine keeps in a higher precision because of the gate.

    Raises:
        ReferenceRunError: ONNX Runtime does not load or run the model.
    """
    from trtdeploy.api.gate import Gate, images_wanted

    images = gate_images(options, images_wanted(draft.largest_batch))
    info = _build(draft, path)
    step("gate")
    gate = Gate(draft.reference(), info, images, options.tolerance or Tolerance.of(draft.judged_as))
    report = gate.check(lambda: _open(draft, path, info))
    if report.verdict == "failed" and draft.lowers_precision:
        return _second_try(draft, path, gate, report, step)
    return report, []


def _second_try(
    draft: Draft, path: Path, gate: Gate, report: GateReport, step: Progress
) -> tuple[GateReport, list[str]]:
    """Look for the blocks that fail in lowered precision, and build the engine with them in a higher one.

    Returns:
        The report of the engine that is at `path` now, and the patterns of the nodes that it keeps.
    """
    from trtdeploy.api.second_try import blocks_of, names_of, smallest_set

    reports = draft.reports
    blocks = blocks_of(draft.finish())
    trial = path.with_name(f".trial-{path.name}")

    def passes(kept: list[Block]) -> bool:
        step(f"second try: {len(kept)} of {len(blocks)} blocks in {draft.higher}")
        try:
            built = _build(draft, trial, names_of(kept))
        except BuildError:
            return False  # of a mixture that the builder does not take, others may still do
        return gate.check(lambda: _open(draft, trial, built)).verdict != "failed"

    found = smallest_set(blocks, passes)
    if not found:
        draft.reports = reports
        failure = (
            f"it is not a matter of {draft.precision.name}: it fails with all {len(blocks)} blocks in {draft.higher}"
        )
        return replace(report, failures=(report.reason, failure, *report.failures[1:])), []
    step(f"second try: {', '.join(block.name for block in found)} in {draft.higher}")
    patterns = names_of(found)
    info = _build(draft, path, patterns)
    return gate.check(lambda: _open(draft, path, info), [block.name for block in found]), patterns


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


def _write_report(report: GateReport, staged: Path, target: Path, *, refused: bool) -> None:
    """Write the report of the engine at `staged`: beside the target, or with an engine that is written all the same."""
    document = {"engine": target.name, "refused": refused, **report.to_dict()}
    text = json.dumps(document, indent=2).replace(json.dumps(str(staged))[1:-1], json.dumps(str(target))[1:-1])
    with atomic_write(_report_path(target if refused else staged)) as temporary:
        temporary.write_text(text + "\n")


def _refusal(report: GateReport, target: Path, what: str) -> str:
    """Return the message for an engine that is refused; `what` says who does not detect what the model does."""
    lines = "\n".join(report.lines())
    return (
        f"{target} is refused: {what} what its model detects in ONNX Runtime, so it was not "
        f"written.\n{lines}\nThe whole report is in {_report_path(target)}. Build in FP32, with another backend or "
        "version of its library; --gate warn writes the engine all the same."
    )
