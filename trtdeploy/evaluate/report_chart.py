"""The errors by block as a chart in SVG, which stands inside an HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from trtdeploy.evaluate.compare_errors import ErrorSums, TensorReport
from trtdeploy.evaluate.report import decibels, escaped

_WIDTH, _LEFT, _RIGHT, _TOP, _HEIGHT, _BELOW = 1100, 52, 12, 34, 240, 118
CEILING = 100.0
"""Ratios above this are drawn at it: they are exact to the eye."""
_MAX_TICKS = 48
_SERIES = (("accumulated", "#9aa4b0"), ("local, worst of the block", "#0072b2"))
_WRONG = "#d55e00"


def chart_svg(tensors: TensorReport) -> str:
    """Return the signal to noise ratio of each block, accumulated and local, with the limit and what exceeds it."""
    blocks = tensors.blocks
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(blocks))
    xs = [_LEFT + step * (index + 0.5) for index in range(len(blocks))]
    accumulated = [None if block.last is None else _height(block.last.accumulated) for block in blocks]
    local = [None if block.worst is None else _height(block.worst.local) for block in blocks]
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_TOP + _HEIGHT + _BELOW}" role="img" font-family="sans-serif" font-size="12">',
        "<title>Signal to noise ratio by block in dB</title>",
        *_grid(),
        *_limit(tensors.limit.sqnr_db),
    ]
    for (_, colour), series in zip(_SERIES, (accumulated, local), strict=True):
        points = " ".join(f"{x:.1f},{_y(value):.1f}" for x, value in zip(xs, series, strict=True) if value is not None)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for block, x, value in zip(blocks, xs, local, strict=True):
        if value is None or block.worst is None:
            continue
        colour, size = (_WRONG, 6) if block.diverges else (_SERIES[1][1], 3.5)
        shown = decibels(block.worst.local.sqnr_db) if block.worst.local is not None else "-"
        title = escaped(f"{block.name}: local {shown} dB at {block.worst.name}")
        parts.append(
            f'<circle cx="{x:.1f}" cy="{_y(value):.1f}" r="{size}" fill="{colour}"><title>{title}</title></circle>'
        )
    parts += _ticks([block.name for block in blocks], xs, [block.diverges for block in blocks])
    parts += _legend()
    return "".join([*parts, "</svg>"])


def _height(errors: ErrorSums | None) -> float:
    """Return where a ratio is drawn; broken tensors at the bottom."""
    return CEILING if errors is None else max(0.0, min(CEILING, errors.sqnr_db))


def _y(value: float) -> float:
    return _TOP + _HEIGHT * (1 - value / CEILING)


def _grid() -> list[str]:
    parts = []
    for value in range(0, 101, 20):
        y = _y(value)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#e3e7ec"/>')
        label = f"{value}+" if value == CEILING else str(value)
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end" fill="#4a5563">{label}</text>')
    middle = _TOP + _HEIGHT / 2
    return [
        *parts,
        f'<text x="14" y="{middle}" transform="rotate(-90 14 {middle})" text-anchor="middle" fill="#4a5563">dB</text>',
    ]


def _limit(value: float) -> list[str]:
    y = _y(value)
    return [
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="{_WRONG}" stroke-dasharray="6 4"/>',
        f'<text x="{_WIDTH - _RIGHT}" y="{y - 5}" text-anchor="end" fill="{_WRONG}">limit of the local error</text>',
    ]


def _ticks(names: Sequence[str], xs: Sequence[float], wrong: Sequence[bool]) -> list[str]:
    """Return the blocks' names, every so many where there are more than can be read, diverging ones always."""
    every = -(-len(names) // _MAX_TICKS)
    parts = []
    for index, (name, x, bad) in enumerate(zip(names, xs, wrong, strict=True)):
        if index % every and not bad:
            continue
        shown = escaped(name if len(name) <= 24 else f"{name[:23]}\N{HORIZONTAL ELLIPSIS}")
        style = f'fill="{_WRONG}" font-weight="bold"' if bad else 'fill="#4a5563"'
        y = _TOP + _HEIGHT + 14
        parts.append(
            f'<text x="{x:.1f}" y="{y}" text-anchor="end" transform="rotate(-50 {x:.1f} {y})" {style}>{shown}</text>'
        )
    return parts


def _legend() -> list[str]:
    parts, x = [], _LEFT
    for name, colour in (*_SERIES, ("diverges", _WRONG)):
        parts.append(f'<rect x="{x}" y="8" width="14" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 20}" y="18" fill="#1c2430">{name}</text>')
        x += 46 + 7 * len(name)
    return parts
