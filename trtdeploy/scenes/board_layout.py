"""Place parts, pads, solder joints and defects on a circuit board, without drawing anything."""

from __future__ import annotations

import numpy as np

from trtdeploy.scenes.board_items import (
    BOARD_HEIGHT,
    BOARD_WIDTH,
    BRIDGE,
    CHIP,
    CRACK,
    EDGE,
    JOINT,
    MISSING,
    PAD,
    VOID,
    Item,
    Layout,
    Part,
    Point,
)


def make_layout(rng: np.random.Generator, defect_rate: float) -> Layout:
    """Place parts at random without overlap and choose their defects.

    Args:
        rng: Source of all choices.
        defect_rate: Chance of each kind of defect at a joint; a missing part is twice as likely.

    Returns:
        The finished layout.
    """
    layout = Layout()
    builders = (_chip, _quad, _passive, _header, _testpoints, _can)
    plan = [0] * 4 + [1] * 2 + [2] * 26 + [3] * 2 + [4] * 4 + [5] * 2 + [2] * 14
    for count, kind in enumerate(plan):
        for _ in range(30):
            if builders[kind](layout, rng, defect_rate, count + 1):
                break
    _route(layout, rng)
    return layout


def _claim(layout: Layout, rng: np.random.Generator, width: float, height: float, gap: float = 18.0) -> Point | None:
    """Choose a free centre for a footprint, or return None when the place is taken."""
    x = rng.uniform(EDGE + 50 + width / 2, BOARD_WIDTH - EDGE - 50 - width / 2)
    y = rng.uniform(EDGE + 50 + height / 2, BOARD_HEIGHT - EDGE - 50 - height / 2)
    box = (x - width / 2 - gap, y - height / 2 - gap, x + width / 2 + gap, y + height / 2 + gap)
    for other in layout.taken:
        if box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]:
            return None
    layout.taken.append(box)
    return float(np.round(x)), float(np.round(y))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _row(
    layout: Layout,
    rng: np.random.Generator,
    defect_rate: float,
    centres: list[Point],
    size: Point,
    *,
    pin: Point | None,
    bare: bool,
    is_round: bool = False,
) -> None:
    """Add a row of neighbouring joints (or bare pads) with defects drawn per joint."""
    position = 0
    while position < len(centres):
        x, y = centres[position]
        seed = _seed(rng)
        chance = rng.random()
        jitter = rng.uniform(0.92, 1.08, 2)
        width, height = size[0] * jitter[0], size[1] * jitter[1]
        label = PAD if bare else JOINT
        step = 1
        if not bare and chance < defect_rate:
            label = CRACK
        elif not bare and chance < 2 * defect_rate:
            label = VOID
        elif not bare and chance < 3 * defect_rate and position + 1 < len(centres):
            label = BRIDGE
            nx, ny = centres[position + 1]
            width, height = abs(nx - x) + width, abs(ny - y) + height
            x, y = (x + nx) / 2, (y + ny) / 2
            step = 2
        shape = is_round and label != BRIDGE
        layout.items.append(Item(label=label, x=x, y=y, width=width, height=height, round=shape, seed=seed, pin=pin))
        position += step


def _chip(layout: Layout, rng: np.random.Generator, defect_rate: float, number: int) -> bool:
    """Add a chip with pins on two sides."""
    pins, pitch = int(rng.integers(4, 9)), float(rng.uniform(40, 50))
    across, lead = float(rng.uniform(90, 150)), float(rng.uniform(38, 46))
    vertical = bool(rng.random() < 0.5)
    along = pins * pitch + 10
    outer = across + 2 * lead + 8
    place = _claim(layout, rng, *((outer, along) if vertical else (along, outer)))
    if place is None:
        return False
    present = bool(rng.random() > defect_rate)
    width, height = (across, along) if vertical else (along, across)
    _add_body(
        layout, rng, "chip", place, (width, height), f"U{number}", present=present, outer=outer, vertical=vertical
    )
    for side in (-1.0, 1.0):
        offset = side * (across / 2 + lead / 2 + 2)
        spots = [(i - (pins - 1) / 2) * pitch for i in range(pins)]
        if vertical:
            centres = [(place[0] + offset, place[1] + s) for s in spots]
            _row(layout, rng, defect_rate, centres, (lead, pitch * 0.62), pin=(-side, 0.0), bare=not present)
        else:
            centres = [(place[0] + s, place[1] + offset) for s in spots]
            _row(layout, rng, defect_rate, centres, (pitch * 0.62, lead), pin=(0.0, -side), bare=not present)
    return True


def _quad(layout: Layout, rng: np.random.Generator, defect_rate: float, number: int) -> bool:
    """Add a chip with pins on four sides."""
    pins, pitch, lead = int(rng.integers(4, 8)), float(rng.uniform(40, 46)), 40.0
    body = pins * pitch + 24
    outer = body + 2 * lead + 8
    place = _claim(layout, rng, outer, outer)
    if place is None:
        return False
    _add_body(layout, rng, "chip", place, (body, body), f"U{number}", present=True, outer=outer, vertical=False)
    spots = [(i - (pins - 1) / 2) * pitch for i in range(pins)]
    reach = body / 2 + lead / 2 + 2
    for side in (-1.0, 1.0):
        across = [(place[0] + s, place[1] + side * reach) for s in spots]
        _row(layout, rng, defect_rate, across, (pitch * 0.62, lead), pin=(0.0, -side), bare=False)
        down = [(place[0] + side * reach, place[1] + s) for s in spots]
        _row(layout, rng, defect_rate, down, (lead, pitch * 0.62), pin=(-side, 0.0), bare=False)
    return True


def _add_body(
    layout: Layout,
    rng: np.random.Generator,
    kind: str,
    place: Point,
    size: Point,
    name: str,
    *,
    present: bool,
    outer: float,
    vertical: bool,
) -> None:
    """Add a part's body with its label: `chip`, or `missing` over the whole footprint."""
    layout.parts.append(
        Part(
            kind=kind, x=place[0], y=place[1], width=size[0], height=size[1],
            name=name, present=present, vertical=vertical, seed=_seed(rng),
        )
    )  # fmt: skip
    if not present:
        width, height = (outer, size[1]) if (kind == "chip") == vertical else (size[0], outer)
        layout.items.append(Item(label=MISSING, x=place[0], y=place[1], width=width, height=height, seed=_seed(rng)))
    elif kind == "chip":
        layout.items.append(Item(label=CHIP, x=place[0], y=place[1], width=size[0], height=size[1], seed=_seed(rng)))


def _passive(layout: Layout, rng: np.random.Generator, defect_rate: float, number: int) -> bool:
    """Add a resistor or capacitor with a joint at each end."""
    scale = float(rng.uniform(0.8, 1.25))
    body, across, pad = 62 * scale, 44 * scale, 34 * scale
    vertical = bool(rng.random() < 0.5)
    outer = body + 2 * pad
    place = _claim(layout, rng, *((across, outer) if vertical else (outer, across)))
    if place is None:
        return False
    present = bool(rng.random() > 2 * defect_rate)
    kind = "resistor" if rng.random() < 0.5 else "capacitor"
    size = (across, body) if vertical else (body, across)
    name = f"{'R' if kind == 'resistor' else 'C'}{number}"
    _add_body(layout, rng, kind, place, size, name, present=present, outer=outer, vertical=vertical)
    for side in (-1.0, 1.0):
        offset = side * (body / 2 + pad / 2)
        centre = (place[0], place[1] + offset) if vertical else (place[0] + offset, place[1])
        shape = (across * 0.94, pad * 0.9) if vertical else (pad * 0.9, across * 0.94)
        _row(layout, rng, defect_rate, [centre], shape, pin=None, bare=not present)
    return True


def _header(layout: Layout, rng: np.random.Generator, defect_rate: float, number: int) -> bool:
    """Add a row of round through-hole joints."""
    pins, pitch = int(rng.integers(4, 9)), float(rng.uniform(50, 60))
    vertical = bool(rng.random() < 0.5)
    along, across = pins * pitch + 6, 56.0
    place = _claim(layout, rng, *((across, along) if vertical else (along, across)))
    if place is None:
        return False
    size = (across, along) if vertical else (along, across)
    layout.parts.append(
        Part(kind="header", x=place[0], y=place[1], width=size[0], height=size[1], name=f"J{number}", seed=_seed(rng))
    )
    spots = [(i - (pins - 1) / 2) * pitch for i in range(pins)]
    centres = [(place[0], place[1] + s) if vertical else (place[0] + s, place[1]) for s in spots]
    _row(layout, rng, defect_rate, centres, (pitch * 0.72, pitch * 0.72), pin=None, bare=False, is_round=True)
    return True


def _testpoints(layout: Layout, rng: np.random.Generator, defect_rate: float, number: int) -> bool:
    """Add a short row of bare round pads."""
    count, pitch = int(rng.integers(1, 5)), 52.0
    place = _claim(layout, rng, count * pitch, 46.0)
    if place is None:
        return False
    layout.parts.append(
        Part(
            kind="testpoints", x=place[0], y=place[1], width=count * pitch, height=46.0,
            name=f"TP{number}", seed=_seed(rng),
        )
    )  # fmt: skip
    centres = [(place[0] + (i - (count - 1) / 2) * pitch, place[1]) for i in range(count)]
    size = float(rng.uniform(28, 38))
    _row(layout, rng, defect_rate, centres, (size, size), pin=None, bare=True, is_round=True)
    return True


def _can(layout: Layout, rng: np.random.Generator, _defect_rate: float, number: int) -> bool:
    """Add a metal can, a large unlabelled object that the model must leave alone."""
    size = float(rng.uniform(110, 170))
    place = _claim(layout, rng, size, size)
    if place is None:
        return False
    layout.parts.append(
        Part(kind="can", x=place[0], y=place[1], width=size, height=size, name=f"E{number}", seed=_seed(rng))
    )
    return True


def _route(layout: Layout, rng: np.random.Generator) -> None:
    """Connect random items with traces that bend at 45 degrees and end in a via."""
    ends = [item for item in layout.items if item.label not in (MISSING, CHIP)]
    for item in ends:
        if rng.random() < 0.75:
            reach = rng.uniform(-260, 260, 2)
            if item.pin is not None:
                reach = np.abs(reach) * np.where(np.array(item.pin) == 0, rng.choice([-1.0, 1.0]), -np.array(item.pin))
            bend = float(min(abs(reach[0]), abs(reach[1])))
            middle = (item.x + np.sign(reach[0]) * bend, item.y + np.sign(reach[1]) * bend)
            end = (item.x + float(reach[0]), item.y + float(reach[1]))
            layout.traces.append([(item.x, item.y), (float(middle[0]), float(middle[1])), end])
            layout.vias.append(end)
    layout.vias = [v for v in layout.vias if not any(_inside(v, box) for box in layout.taken)]


def _inside(point: Point, box: tuple[float, float, float, float]) -> bool:
    on_part = box[0] < point[0] < box[2] and box[1] < point[1] < box[3]
    on_board = EDGE + 20 < point[0] < BOARD_WIDTH - EDGE - 20 and EDGE + 20 < point[1] < BOARD_HEIGHT - EDGE - 20
    return on_part or not on_board
