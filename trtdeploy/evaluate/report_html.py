"""A comparison as one HTML file without any other file: pictures, tables that sort, and the errors by block."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2

from trtdeploy.evaluate.compare import BoxReport
from trtdeploy.evaluate.compare_errors import TensorReport
from trtdeploy.evaluate.report import (
    BLOCK_HEADERS,
    ROW_HEADERS,
    ROWS_NOTE,
    Picture,
    ReportContent,
    block_cells,
    escaped,
    row_cells,
)
from trtdeploy.evaluate.report_chart import chart_svg
from trtdeploy.evaluate.report_pictures import draw_difference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WIDTH, _QUALITY, _FAILURES = 960, 85, 40
_STYLE = """
:root { color-scheme: light; --a: #0072b2; --b: #d55e00; --line: #d8dde3; --soft: #f5f7f9; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.badge { display: inline-block; padding: .05rem .7rem; border-radius: 1rem; color: #fff; margin-left: .6rem;
  font-size: 1.1rem; vertical-align: middle; }
.agree { background: #00694b; } .differ { background: #a83a00; } .inconclusive { background: #6b5b00; }
.a { color: var(--a); } .b { color: var(--b); } .a, .b { font-weight: 600; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; }
.facts div { background: var(--soft); border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .8rem; }
.facts b { display: block; font-size: 1.15rem; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th { background: var(--soft); cursor: pointer; vertical-align: bottom; }
th:first-child, td:first-child, td.text { text-align: left; overflow-wrap: break-word; }
th:first-child, td:first-child { min-width: 9rem; max-width: 24rem; }
td.text { min-width: 16rem; } tr.wrong td { background: #fdeee6; }
figure { margin: 1.2rem 0; } figure img { max-width: 100%; border: 1px solid var(--line); }
figcaption { color: #4a5563; overflow-wrap: anywhere; } svg { width: 100%; height: auto; }
"""
_SCRIPT = """
for (const head of document.querySelectorAll('th')) head.addEventListener('click', () => {
  const body = head.closest('table').tBodies[0], column = head.cellIndex, down = head.dataset.down !== '1';
  const number = text => text === 'broken' ? -1e9 : text === 'exact' ? 1e9 : parseFloat(text);
  const rows = [...body.rows].sort((x, y) => {
    const a = x.cells[column].textContent, b = y.cells[column].textContent, p = number(a), q = number(b);
    const order = isNaN(p) || isNaN(q) ? a.localeCompare(b) : p - q;
    return down ? -order : order;
  });
  head.dataset.down = down ? '1' : '0';
  body.append(...rows);
});
"""


def html_report(content: ReportContent) -> str:
    """Return the report as an HTML document. Names that come from files are escaped, and no script but its own runs."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{escaped(' and '.join(content.sides))}</title><style>{_STYLE}</style></head><body>",
        *_head(content),
    ]
    if content.boxes is not None:
        parts += _boxes(content.boxes)
    if content.tensors is not None:
        parts += _tensors(content.tensors)
    if content.pictures:
        parts.append("<h2>Images that differ most</h2>")
        parts.append(
            '<p><span class="a">A solid blue</span>, <span class="b">B dashed orange</span>; boxes that agree are thin '
            "and grey. Labels say what became of a box.</p>"
        )
        parts += [_figure(picture, content.class_names) for picture in content.pictures]
    if content.notes:
        parts.append("<h2>Notes</h2><ul>" + "".join(f"<li>{escaped(note)}</li>" for note in content.notes) + "</ul>")
    return "\n".join([*parts, f"<script>{_SCRIPT}</script></body></html>", ""])


def _head(content: ReportContent) -> Iterable[str]:
    verdict = escaped(content.verdict)
    yield f'<h1>Comparison of two engines<span class="badge {verdict}">{verdict}</span></h1>'
    for letter, side in zip("AB", content.sides, strict=True):
        yield f'<div><span class="{letter.lower()}">{letter}</span> {escaped(side)}</div>'
    yield from (f"<p>{escaped(reason)}</p>" for reason in content.reasons)
    if content.boxes is not None:
        yield f"<p>Boxes with a score above {content.conf:g} on {content.boxes.images} images.</p>"


def _boxes(boxes: BoxReport) -> Iterable[str]:
    total = boxes.total
    share = f"{100 * total.found / total.boxes:.2f}%" if total.boxes else "-"
    facts = [
        ("boxes of A found in B", share),
        ("missing in B", str(total.missing)),
        ("extra in B", str(total.extra)),
        ("IoU: least, 1%, 5%, median", ", ".join(f"{value:.3f}" for value in boxes.iou.values()) or "-"),
        ("score apart: most, 99%, 95%, median", ", ".join(f"{v:.3f}" for v in boxes.score_difference.values()) or "-"),
        ("median of B's score minus A's", f"{boxes.score_shift:+.4f}"),
    ]
    yield "<h2>Boxes</h2>"
    yield '<div class="facts">' + "".join(f"<div>{escaped(n)}<b>{escaped(v)}</b></div>" for n, v in facts) + "</div>"
    yield f"<p>{escaped(ROWS_NOTE)}.</p>"
    if boxes.failures:
        more = len(boxes.failures) - _FAILURES
        shown = [*boxes.failures[:_FAILURES], *([f"and {more} more, which --json lists"] if more > 0 else [])]
        yield "<ul>" + "".join(f"<li>{escaped(failure)}</li>" for failure in shown) + "</ul>"
    for title, rows in (("Size of object (COCO)", (*boxes.sizes, total)), ("Class", boxes.classes)):
        cells = [row_cells(row) for row in rows]
        yield _table((title, *ROW_HEADERS[1:]), cells, [row.missing + row.relabelled > 0 for row in rows])


def _tensors(tensors: TensorReport) -> Iterable[str]:
    yield f"<h2>Tensors by block</h2><p>{escaped(tensors.verdict)}.</p>"
    yield (
        f"<p>{len(tensors.tensors)} tensors that both graphs have, on {tensors.images} images. Accumulated: B against "
        "A, both from the image. Local: what B's operators make of A's own tensors, the worst of the block, so that "
        "rounding from earlier blocks is not in it.</p>"
    )
    yield chart_svg(tensors)
    cells = [block_cells(block) for block in tensors.blocks]
    yield _table(BLOCK_HEADERS, cells, [block.diverges for block in tensors.blocks])


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]], wrong: Sequence[bool]) -> str:
    head = "".join(f"<th>{escaped(header)}</th>" for header in headers)
    body = "".join(
        ('<tr class="wrong">' if bad else "<tr>") + "".join(map(_cell, row)) + "</tr>"
        for row, bad in zip(rows, wrong, strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    return ('<td class="text">' if len(text) > 24 else "<td>") + f"{escaped(text)}</td>"


def _figure(picture: Picture, class_names: Sequence[str]) -> str:
    drawn = draw_difference(picture.image, picture.worst.judged, class_names, _WIDTH)
    source = f"data:image/jpeg;base64,{_jpeg(drawn)}"
    caption = escaped(picture.caption)
    return f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def _jpeg(image: NDArray[np.uint8]) -> str:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise RuntimeError(f"OpenCV does not encode an image of {list(image.shape)}")  # a defect of ours
    return base64.b64encode(data.tobytes()).decode()
