"""Write the report of a comparison: an HTML file, or a picture."""

from __future__ import annotations

from pathlib import Path

from trtdeploy.api.compare import CompareReport
from trtdeploy.core.errors import UsageError
from trtdeploy.core.files import atomic_write
from trtdeploy.evaluate.report import Picture, ReportContent

SUFFIXES = (".html", ".png")


def check_report(path: Path) -> None:
    """Check that a report can have this name.

    Raises:
        UsageError: It ends with neither `.html` nor `.png`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--report {path}: expected a name that ends with {' or '.join(SUFFIXES)}.")


def write_report(report: CompareReport, path: Path) -> None:
    """Write a report to `path`: HTML without any other file, or a PNG.

    Raises:
        UsageError: `path` ends with neither `.html` nor `.png`.
        SourceError: One of the worst images can no longer be read.
        SinkError: The file cannot be written.
    """
    check_report(path)
    content = _content(report)
    if path.suffix.lower() == ".html":
        from trtdeploy.evaluate.report_html import html_report

        data = html_report(content).encode()
    else:
        import cv2

        from trtdeploy.evaluate.report_sheet import sheet_report

        data = cv2.imencode(".png", sheet_report(content))[1].tobytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _content(report: CompareReport) -> ReportContent:
    worst = () if report.boxes is None else report.boxes.worst
    return ReportContent(
        verdict=report.verdict,
        reasons=report.reasons,
        sides=(str(report.a), str(report.b)),
        conf=report.conf,
        boxes=report.boxes,
        tensors=report.tensors,
        notes=report.notes,
        class_names=report.a.info.class_names or report.b.info.class_names,
        pictures=[Picture(worst=image, image=report.images.named(image.name)) for image in worst],
    )
