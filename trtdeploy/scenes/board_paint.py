"""Paint a board's layout into an image: colour, height and gloss first, then light."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from trtdeploy.scenes.board_items import (
    BOARD_HEIGHT,
    BOARD_WIDTH,
    BRIDGE,
    CHIP,
    CRACK,
    EDGE,
    MISSING,
    PAD,
    VOID,
    Item,
    Layout,
    Part,
    Point,
)
from trtdeploy.scenes.board_wear import litter, stain

Colour = tuple[float, float, float]
Window = tuple[slice, slice]
Plane = NDArray[np.float32]

MASKS: tuple[Colour, ...] = ((38, 92, 18), (60, 110, 30), (122, 62, 14), (34, 26, 132), (30, 28, 27), (92, 84, 20))
FINISHES: tuple[Colour, ...] = ((92, 178, 222), (104, 150, 206), (78, 160, 228))
SHIFT = 4


class BoardPainter:
    """Paint one board.

    Three layers hold albedo (BGR), height (pixels) and gloss (0 to 1); `light` turns them into an
    image. Every item and part draws its details from its own seed.

    Args:
        layout: What the board carries.
        rng: Source of the board's colours, textures and light.
    """

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        self.layout = layout
        shape = (BOARD_HEIGHT, BOARD_WIDTH)
        self.mask = np.array(MASKS[int(rng.integers(len(MASKS)))]) * rng.uniform(0.8, 1.2)
        self.finish = FINISHES[int(rng.integers(len(FINISHES)))]
        self.silk: Colour = (225, 228, 226) if rng.random() < 0.85 else (90, 210, 225)
        self.albedo = np.empty((*shape, 3), np.uint8)
        self.height = np.zeros(shape, np.float32)
        self.gloss = np.full(shape, 0.10, np.float32)
        self.shadow = np.zeros(shape, np.uint8)
        self.light_angle = float(rng.uniform(0, 2 * np.pi))
        self.wear = np.random.default_rng(int(rng.integers(2**31)))
        self._ground(rng)

    def paint(self) -> NDArray[np.uint8]:
        """Paint everything.

        Returns:
            `[BOARD_HEIGHT, BOARD_WIDTH, 3]` uint8 BGR.
        """
        for part in self.layout.parts:
            self._silkscreen(part)
        stain(self.albedo, self.layout, self.wear)
        for item in self.layout.items:
            if item.label not in (CHIP, MISSING):
                self._solder(item)
        for part in self.layout.parts:
            if part.present:
                self._body(part)
        litter(self.albedo, self.height, self.gloss, self.wear)
        return self._light()

    def _ground(self, rng: np.random.Generator) -> None:
        """Paint bench, board, copper pours, traces and vias."""
        bench = np.array([58, 56, 54]) * rng.uniform(0.5, 1.6) * rng.uniform(0.9, 1.1, 3)
        self.albedo[:] = bench.clip(0, 255).astype(np.uint8)
        board = (slice(EDGE, BOARD_HEIGHT - EDGE), slice(EDGE, BOARD_WIDTH - EDGE))
        self.albedo[board] = self.mask.clip(0, 255).astype(np.uint8)
        self.height[board] = 6.0
        self.gloss[board] = 0.16
        copper = tuple(float(c) for c in (self.mask * 1.28 + 8).clip(0, 255))
        layer = np.zeros(self.height.shape, np.uint8)
        for _ in range(int(rng.integers(3, 8))):
            x, y = rng.uniform(EDGE, BOARD_WIDTH - 400), rng.uniform(EDGE, BOARD_HEIGHT - 300)
            w, h = rng.uniform(150, 500), rng.uniform(120, 400)
            cv2.rectangle(layer, (int(x), int(y)), (int(x + w), int(y + h)), 160, -1)
        for trace in self.layout.traces:
            points = np.round(np.array(trace) * (1 << SHIFT)).astype(np.int32)
            cv2.polylines(layer, [points], False, 255, int(rng.choice([5, 7, 7, 9, 12])), cv2.LINE_AA, SHIFT)
        layer[: EDGE + 8] = layer[-EDGE - 8 :] = 0
        layer[:, : EDGE + 8] = layer[:, -EDGE - 8 :] = 0
        amount = layer[..., None].astype(np.float32) / 255
        self.albedo[:] = (self.albedo * (1 - amount) + np.array(copper, np.float32) * amount).astype(np.uint8)
        self.height += cv2.blur(layer, (3, 3)).astype(np.float32) / 255 * 1.2
        for x, y in self.layout.vias:
            self._disc((x, y), (9, 9), self.finish, 1.0, 0.35)
            self._disc((x, y), (4, 4), (18, 18, 18), -2.0, 0.0)
        grain = rng.normal(0, 1, (BOARD_HEIGHT // 2, BOARD_WIDTH // 2)).astype(np.float32)
        self.height += cv2.resize(grain, (BOARD_WIDTH, BOARD_HEIGHT)) * float(rng.uniform(0.05, 0.16))

    def _disc(self, centre: Point, axes: Point, colour: Colour, rise: float, gloss: float) -> None:
        """Paint a filled ellipse in all three layers."""
        middle = (round(centre[0] * (1 << SHIFT)), round(centre[1] * (1 << SHIFT)))
        size = (round(axes[0] * (1 << SHIFT)), round(axes[1] * (1 << SHIFT)))
        cv2.ellipse(self.albedo, middle, size, 0, 0, 360, colour, -1, cv2.LINE_AA, SHIFT)
        base = float(self.height[int(centre[1]), int(centre[0])])
        cv2.ellipse(self.height, middle, size, 0, 0, 360, base + rise, -1, cv2.LINE_8, SHIFT)
        cv2.ellipse(self.gloss, middle, size, 0, 0, 360, gloss, -1, cv2.LINE_8, SHIFT)

    def _silkscreen(self, part: Part) -> None:
        """Print a part's outline and name."""
        rng = np.random.default_rng([part.seed, 1])
        x, y, w, h = part.x, part.y, part.width / 2 + 7, part.height / 2 + 7
        if part.kind in ("chip", "header", "resistor", "capacitor"):
            corners = (int(x - w), int(y - h)), (int(x + w), int(y + h))
            cv2.rectangle(self.albedo, *corners, self.silk, 2, cv2.LINE_AA)
        if part.kind == "chip":
            cv2.circle(self.albedo, (int(x - w + 14), int(y - h + 14)), 5, self.silk, -1, cv2.LINE_AA)
        size = float(rng.uniform(0.5, 0.75))
        spot = (int(x - w), int(y - h - 30)) if rng.random() < 0.5 else (int(x - w), int(y + h + 46))
        cv2.putText(self.albedo, part.name, spot, cv2.FONT_HERSHEY_SIMPLEX, size, self.silk, 2, cv2.LINE_AA)

    def _patch(self, item: Item) -> tuple[Window, Plane, Plane, Plane]:
        """Return the item's window, its normalised coordinates and its superellipse radius."""
        x0, y0 = int(item.x - item.width / 2) - 3, int(item.y - item.height / 2) - 3
        x1, y1 = int(item.x + item.width / 2) + 4, int(item.y + item.height / 2) + 4
        ys, xs = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        u = (xs - item.x) / (item.width / 2)
        v = (ys - item.y) / (item.height / 2)
        power = 2 if item.round else 4
        radius = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)
        return (slice(y0, y1), slice(x0, x1)), u, v, radius.astype(np.float32)

    def _blend(self, window: Window, amount: Plane, colour: NDArray[np.float64] | Colour) -> None:
        a = amount[..., None]
        self.albedo[window] = (self.albedo[window] * (1 - a) + np.asarray(colour) * a).clip(0, 255).astype(np.uint8)

    def _solder(self, item: Item) -> None:
        """Paint a bare pad or a joint with its defect."""
        rng = np.random.default_rng(item.seed)
        window, u, v, radius = self._patch(item)
        soft = float(min(item.width, item.height)) / 2
        inside = ((1 - radius) * soft + 0.5).clip(0, 1)
        if item.label == PAD:
            self._blend(window, inside, np.array(self.finish) * rng.uniform(0.88, 1.08))
            self.height[window] += inside * 1.5
            self.gloss[window] = np.where(inside > 0.5, 0.30, self.gloss[window])
            return
        shape = inside
        dome = np.sqrt((1 - radius**2).clip(0, 1)) * soft * rng.uniform(0.42, 0.62)
        if item.label == BRIDGE:
            long, narrow = (u, v) if item.width > item.height else (v, u)
            waist = rng.uniform(0.22, 0.85) + rng.uniform(0.3, 0.9) * np.abs(long).clip(0, 1) ** 2
            cut = ((waist.clip(0, 1) - np.abs(narrow)) * soft + 0.5).clip(0, 1)
            shape = inside * cut
            across = (1 - (narrow / waist.clip(0.22, 1)) ** 2).clip(0, 1)
            dome = np.sqrt(across * (1 - radius**4).clip(0, 1)) * soft * 0.6
        grey = np.array([176, 178, 180]) * rng.uniform(0.74, 1.1)
        self._blend(window, shape, grey)
        self.height[window] += (dome * shape).astype(np.float32)
        self.gloss[window] = np.where(shape > 0.5, rng.uniform(0.4, 1.0), self.gloss[window])
        if item.pin is not None and item.label != BRIDGE:
            self._lead(item, window, u, v, rng)
        if item.label == CRACK:
            self._crack(item, window, inside, rng)
        elif item.label == VOID:
            self._void(item, window, u, v, rng)
        elif item.round:
            self._disc((item.x, item.y), (item.width * 0.16, item.width * 0.16), (150, 166, 172), 2.0, 0.8)

    def _lead(self, item: Item, window: Window, u: Plane, v: Plane, rng: np.random.Generator) -> None:
        """Paint the flat lead that enters a joint from its part."""
        pin = item.pin or (0.0, 0.0)
        toward = u * pin[0] + v * pin[1]
        across = np.abs(u * pin[1] + v * pin[0])
        lead = ((toward > rng.uniform(-0.25, 0.1)) & (across < rng.uniform(0.42, 0.55))).astype(np.float32)
        lead = cv2.blur(lead, (3, 3))
        self._blend(window, lead.astype(np.float32), (158, 164, 168))
        self.height[window] += lead * 2.5

    def _crack(self, item: Item, window: Window, inside: Plane, rng: np.random.Generator) -> None:
        """Paint a jagged hairline across a joint."""
        line = np.zeros(inside.shape, np.uint8)
        angle = float(rng.uniform(0, np.pi))
        direction, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        length = float(np.hypot(item.width, item.height)) / 2 * float(rng.uniform(0.6, 1.0))
        centre = np.array(inside.shape[::-1]) / 2 + rng.uniform(-0.12, 0.12, 2) * (item.width, item.height)
        steps = np.linspace(-length, length, 9)
        points = [centre + direction * s + normal * float(rng.normal(0, 2.2)) for s in steps]
        fixed = np.round(np.array(points) * (1 << SHIFT)).astype(np.int32)
        cv2.polylines(line, [fixed], False, 255, int(rng.integers(2, 4)), cv2.LINE_AA, SHIFT)
        amount = line.astype(np.float32) / 255 * (inside > 0.2).astype(np.float32)
        self._blend(window, amount * np.float32(rng.uniform(0.7, 0.95)), (16, 18, 22))
        self.height[window] -= amount * 4
        self.gloss[window] *= 1 - amount

    def _void(self, item: Item, window: Window, u: Plane, v: Plane, rng: np.random.Generator) -> None:
        """Paint one or two dark holes into a joint."""
        small = min(item.width, item.height) / 2
        for _ in range(int(rng.integers(1, 3))):
            cx, cy = rng.uniform(-0.35, 0.35, 2)
            size = float(rng.uniform(0.20, 0.42)) * small
            distance = np.hypot((u - cx) * item.width / 2, (v - cy) * item.height / 2 * rng.uniform(0.8, 1.25))
            hole = ((size - distance) + 0.5).clip(0, 1).astype(np.float32)
            self._blend(window, hole * np.float32(rng.uniform(0.65, 0.95)), (30, 34, 40))
            self.height[window] -= (hole * 5).astype(np.float32)
            self.gloss[window] *= 1 - hole

    def _body(self, part: Part) -> None:
        """Paint a part's body and note its shadow."""
        rng = np.random.default_rng([part.seed, 2])
        x0, y0 = int(part.x - part.width / 2), int(part.y - part.height / 2)
        x1, y1 = int(part.x + part.width / 2), int(part.y + part.height / 2)
        if part.kind == "can":
            radius = part.width / 2 - 6
            cv2.circle(self.shadow, (int(part.x), int(part.y)), int(radius), 255, -1)
            self._disc((part.x, part.y), (radius, radius), (150, 152, 154), 16, 0.5)
            self._disc((part.x, part.y), (radius * 0.86, radius * 0.86), (172, 174, 176), 1, 0.4)
            middle, axes = (int(part.x), int(part.y)), (int(radius * 0.84), int(radius * 0.84))
            cv2.ellipse(self.albedo, middle, axes, 0, 200, 340, (40, 36, 34), -1, cv2.LINE_AA)
        elif part.kind in ("chip", "resistor", "capacitor"):
            tone = float(rng.uniform(26, 48))
            colour = (96.0, 138.0, 172.0) if part.kind == "capacitor" else (tone, tone, tone)
            self.albedo[y0:y1, x0:x1] = np.array(colour).clip(0, 255).astype(np.uint8)
            self.height[y0:y1, x0:x1] = 24.0 if part.kind == "chip" else 18.0
            self.gloss[y0:y1, x0:x1] = 0.12
            cv2.rectangle(self.shadow, (x0, y0), (x1, y1), 255, -1)
            self._print(part, (x0, y0, x1, y1), rng)

    def _print(self, part: Part, box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
        """Print marks on a body, or its metal ends."""
        x0, y0, x1, y1 = box
        if part.kind == "chip":
            cv2.circle(self.albedo, (x0 + 16, y0 + 16), 6, (70, 70, 70), -1, cv2.LINE_AA)
            text = "".join(str(rng.choice(list("ABCDEFGHKLMNPRSTX0123456789"))) for _ in range(6))
            size = float(rng.uniform(0.5, 0.8))
            for row, word in enumerate((text[:6], text[:4])):
                spot = (x0 + 14, int(part.y) + row * 22)
                cv2.putText(self.albedo, word, spot, cv2.FONT_HERSHEY_SIMPLEX, size, (130, 132, 132), 1, cv2.LINE_AA)
            return
        depth = int(max(part.width, part.height) * 0.2)
        ends = [(y0, y1, x0, x0 + depth), (y0, y1, x1 - depth, x1)]
        if part.vertical:
            ends = [(y0, y0 + depth, x0, x1), (y1 - depth, y1, x0, x1)]
        for a, b, c, d in ends:
            self.albedo[a:b, c:d] = (168, 172, 174)
            self.gloss[a:b, c:d] = 0.45
        if part.kind == "resistor" and not part.vertical:
            code = f"{int(rng.integers(100, 999))}"
            spot = (x0 + depth, int(part.y) + 6)
            cv2.putText(self.albedo, code, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (215, 215, 215), 1, cv2.LINE_AA)

    def _light(self) -> NDArray[np.uint8]:
        """Light the layers with an ambient, a directional and a ring light."""
        height = cv2.GaussianBlur(self.height, (0, 0), 1.0)
        gx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
        gy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
        slope = np.sqrt(gx * gx + gy * gy)
        upright = 1.0 / np.sqrt(1.0 + slope * slope)
        lx, ly = float(np.cos(self.light_angle)), float(np.sin(self.light_angle))
        tilt = (gx * -lx + gy * -ly) * upright
        diffuse = (0.62 + 0.38 * upright + 0.45 * tilt).clip(0.15, 1.6)
        ring = np.exp(-(((slope - 0.35) / 0.16) ** 2)) * 0.45
        flash = ((tilt * 0.55 + upright * 0.83).clip(0, 1)) ** 24 * 0.6
        shine = self.gloss * (ring + flash) * 150
        offset = np.array([[1, 0, -lx * 9], [0, 1, -ly * 9]], np.float32)
        shade = cv2.warpAffine(self.shadow, offset, (BOARD_WIDTH, BOARD_HEIGHT))
        shade = cv2.blur(shade, (9, 9)).astype(np.float32) / 255
        dark = 1.0 - 0.42 * shade * (self.shadow == 0)
        image: NDArray[np.float32] = (self.albedo * (diffuse * dark)[..., None]) + (shine * dark)[..., None]
        return image.clip(0, 255).astype(np.uint8)
