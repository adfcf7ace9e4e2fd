"""A comparison as one picture: the verdict, what became of the boxes, the errors by block and the worst images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from trtdeploy.evaluate.compare_errors import BlockError, TensorReport
from trtdeploy.evaluate.report import ROW_HEADERS, ROWS_NOTE, Picture, ReportContent, decibels, row_cells
from trtdeploy.evaluate.report_pictures import A_COLOUR, B_COLOUR, draw_difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

Bgr = tuple[int, int, int]
_WIDTH, _MARGIN, _LINE = 1320, 20, 24
_INK, _SOFT, _GRID = (48, 36, 28), (99, 85, 74), (227, 221, 216)
_VERDICTS = {"agree": (75, 105, 0), "differ": (0, 58, 168), "inconclusive": (0, 91, 107)}
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_PICTURES, _BLOCKS = 6, 40
_CEILING = 100.0


def sheet_report(content: ReportContent) -> Image:
    """Return the report as a picture, `[H, W, 3]` uint8 BGR."""
    parts = [_head(content)]
    if content.boxes is not None:
        rows = [*content.boxes.sizes, content.boxes.total]
        parts.append(_table(("size of object", *ROW_HEADERS[1:]), [row_cells(row) for row in rows]))
        parts.append(_lines(textwrap.wrap(ROWS_NOTE, 180)))
    if content.tensors is not None:
        parts.append(_bars(content.tensors))
    parts += _grid(content.pictures[:_PICTURES], content.class_names)
    return np.vstack(parts)


def _head(content: ReportContent) -> Image:
    lines: list[tuple[str, Bgr]] = [(f"Comparison: {content.verdict}", _VERDICTS.get(content.verdict, _INK))]
    for letter, side, colour in zip("AB", content.sides, (A_COLOUR, B_COLOUR), strict=True):
        style = "solid" if letter == "A" else "dashed"
        lines.append((f"{letter} ({style}): {side}", colour))
    for reason in content.reasons:
        lines += [(line, _INK) for line in textwrap.wrap(reason, 150)]
    canvas = _paper(len(lines) * _LINE + 2 * _MARGIN)
    for index, (line, colour) in enumerate(lines):
        _write(canvas, line, _MARGIN, _MARGIN + 16 + index * _LINE, colour, 0.7 if index == 0 else 0.52)
    return canvas


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Image:
    canvas = _paper((len(rows) + 2) * _LINE)
    step = (_WIDTH - 2 * _MARGIN) / len(headers)
    for line, row in enumerate([headers, *rows]):
        y = 16 + line * _LINE
        for column, cell in enumerate(row):
            x = int(_MARGIN + column * step)
            _write(canvas, cell, x, y, _SOFT if line == 0 else _INK, 0.42)
    return canvas


def _lines(lines: Sequence[str]) -> Image:
    canvas = _paper(len(lines) * 18 + _MARGIN)
    for index, line in enumerate(lines):
        _write(canvas, line, _MARGIN, 8 + index * 18, _SOFT, 0.42)
    return canvas


def _bars(tensors: TensorReport) -> Image:
    """Draw the local error of each block as a bar, the accumulated one as a mark; the worst where there are many."""
    blocks = [block for block in tensors.blocks if block.worst is not None]
    if len(blocks) > _BLOCKS:
        worst = sorted(blocks, key=lambda block: (not block.diverges, _local(block)))[:_BLOCKS]
        blocks = [block for block in blocks if block in worst]
    canvas = _paper((len(blocks) + 2) * 20 + _MARGIN)
    left, right = 260, _WIDTH - _MARGIN - 90
    title = f"local error of each block, mark: accumulated (limit {tensors.limit.sqnr_db:g} dB, {tensors.limit.format})"
    _write(canvas, title, _MARGIN, 14, _SOFT, 0.45)

    def place(value: float) -> int:
        return left + int((right - left) * max(0.0, min(_CEILING, value)) / _CEILING)

    for index, block in enumerate(blocks):
        y = 24 + index * 20
        _write(canvas, block.name[:30], _MARGIN, y + 12, B_COLOUR if block.diverges else _INK, 0.42)
        local = _local(block)
        cv2.rectangle(
            canvas, (left, y), (max(left + 3, place(local)), y + 12), B_COLOUR if block.diverges else A_COLOUR, -1
        )
        if block.last is not None:
            x = place(block.last.accumulated.sqnr_db)
            cv2.line(canvas, (x, y - 2), (x, y + 14), _INK, 2)
        _write(canvas, decibels(local), right + 8, y + 12, _SOFT, 0.42)
    limit = place(tensors.limit.sqnr_db)
    cv2.line(canvas, (limit, 20), (limit, 24 + len(blocks) * 20), B_COLOUR, 1)
    return canvas


def _local(block: BlockError) -> float:
    return block.worst.local.sqnr_db if block.worst is not None and block.worst.local is not None else _CEILING


def _grid(pictures: Sequence[Picture], class_names: Sequence[str]) -> list[Image]:
    """Return rows of two pictures with their captions."""
    width = (_WIDTH - 3 * _MARGIN) // 2
    rows = []
    for first in range(0, len(pictures), 2):
        pair = pictures[first : first + 2]
        drawn = [draw_difference(p.image, p.worst.judged, class_names, width) for p in pair]
        canvas = _paper(max(image.shape[0] for image in drawn) + _LINE + _MARGIN)
        for column, (picture, image) in enumerate(zip(pair, drawn, strict=True)):
            x = _MARGIN + column * (width + _MARGIN)
            canvas[_LINE : _LINE + image.shape[0], x : x + image.shape[1]] = image
            _write(canvas, textwrap.shorten(picture.caption, 84, placeholder=" ..."), x, _LINE - 8, _INK, 0.45)
        rows.append(canvas)
    return rows


def _paper(height: int) -> Image:
    return np.full((height, _WIDTH, 3), 255, np.uint8)


def _write(canvas: Image, text: str, x: int, y: int, colour: Bgr, size: float) -> None:
    """Write a line; OpenCV's font has ASCII only."""
    cv2.putText(canvas, text.encode("ascii", "replace").decode(), (x, y), _FONT, size, colour, 1, cv2.LINE_AA)
