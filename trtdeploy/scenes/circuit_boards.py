"""Show a circuit board to a moving camera, with exact boxes of its pads, joints and defects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from trtdeploy.scenes.board_items import BOARD_HEIGHT, BOARD_WIDTH, CLASS_NAMES
from trtdeploy.scenes.board_layout import make_layout
from trtdeploy.scenes.board_paint import BoardPainter

__all__ = ["CLASS_NAMES", "CircuitBoardScene"]

FRAMES_PER_SECOND = 30.0
MIN_VISIBLE = 0.5
MIN_SIDE = 5.0

LabelledFrame = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int32]]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Describe one exposure.

    Attributes:
        x: Board point in the middle of the frame, in board pixels.
        y: Board point in the middle of the frame, in board pixels.
        angle: Rotation in radians.
        zoom: Frame pixels per board pixel.
        blur: Motion during the exposure, x and y in frame pixels.
        defocus: Standard deviation of the defocus blur in frame pixels.
        exposure: Factor on brightness.
        noise: Standard deviation of the sensor noise in grey levels.
    """

    x: float
    y: float
    angle: float
    zoom: float
    blur: tuple[float, float] = (0.0, 0.0)
    defocus: float = 0.0
    exposure: float = 1.0
    noise: float = 3.0

    def matrix(self, width: int, height: int) -> NDArray[np.float64]:
        """Return the `[2, 3]` float64 map from board pixels to frame pixels (pixel centres at integers)."""
        cos, sin = np.cos(self.angle) * self.zoom, np.sin(self.angle) * self.zoom
        turn = np.array([[cos, -sin], [sin, cos]])
        shift = np.array([(width - 1) / 2, (height - 1) / 2]) - turn @ (self.x, self.y)
        return np.concatenate([turn, shift[:, None]], axis=1)


class CircuitBoardScene:
    """Draw one circuit board once and photograph it as often as wanted.

    Everything follows from the arguments: two scenes with equal arguments give equal frames.

    Args:
        seed: Chooses board, defects, light and camera path.
        width: Frame width in pixels. Default 1280.
        height: Frame height in pixels. Default 720.
        defect_rate: Chance of each kind of defect at a joint. Default 0.08.

    Raises:
        ValueError: If the size is less than 32 pixels or `defect_rate` is outside 0 to 0.3.
    """

    def __init__(self, seed: int, *, width: int = 1280, height: int = 720, defect_rate: float = 0.08) -> None:
        if width < 32 or height < 32:
            raise ValueError(f"CircuitBoardScene: size must be at least 32x32 pixels, got {width}x{height}.")
        if not 0.0 <= defect_rate <= 0.3:
            raise ValueError(f"CircuitBoardScene: defect_rate must be between 0 and 0.3, got {defect_rate}.")
        self.seed = seed
        self.width = width
        self.height = height
        rng = np.random.default_rng([seed, 0])
        self.layout = make_layout(rng, defect_rate)
        self.board = BoardPainter(self.layout, np.random.default_rng([seed, 1])).paint()
        self._classes = np.array([item.label for item in self.layout.items], np.int32)
        self._outlines = np.stack([item.outline() for item in self.layout.items])
        path = np.random.default_rng([seed, 2])
        self._phase = path.uniform(0, 2 * np.pi, 6)
        self._pace = path.uniform(0.75, 1.25, 6)
        self._gain = self._light_map(path, width, height)
        self._noise = _noise_tile(np.random.default_rng([seed, 3]), width, height)

    def frame(self, index: int) -> LabelledFrame:
        """Photograph the board at one moment of the camera's smooth path.

        Args:
            index: Number of the frame, 30 frames a second; any integer.

        Returns:
            The image `[H, W, 3]` uint8 BGR, the boxes `[N, 4]` float32 (x0, y0, x1, y1 in pixels)
            and the classes `[N]` int32. Clipped objects have clipped boxes; objects of which less
            than half is in view are left out.
        """
        camera, ahead = self._camera(index), self._camera(index + 1)
        # half of the time between two frames is exposure
        speed = ((ahead.x - camera.x) * camera.zoom / 2, (ahead.y - camera.y) * camera.zoom / 2)
        camera = replace(camera, blur=speed)
        rng = np.random.default_rng([self.seed, 4, index & 0xFFFFFFFF])
        return self._expose(camera, self._gain, self._noise, rng, self.width, self.height)

    def sample(self, index: int, *, width: int | None = None, height: int | None = None) -> LabelledFrame:
        """Photograph the board from a random place in random light: an independent training sample.

        One pixel shows about one board pixel whatever the size, unlike `frame`, which fits the view to the height.

        Args:
            index: Number of the sample; equal numbers give equal samples.
            width: Width in pixels. Default the scene's.
            height: Height in pixels. Default the scene's.

        Returns:
            Image, boxes and classes, as `frame` returns them.
        """
        width, height = width or self.width, height or self.height
        rng = np.random.default_rng([self.seed, 5, index])
        zoom = float(np.exp(rng.normal(0.0, 0.16)))
        reach_x = max(0.0, BOARD_WIDTH / 2 - width / 2 / zoom)
        reach_y = max(0.0, BOARD_HEIGHT / 2 - height / 2 / zoom)
        blurred = rng.random() < 0.5
        camera = Camera(
            x=BOARD_WIDTH / 2 + float(rng.uniform(-1, 1)) * reach_x,
            y=BOARD_HEIGHT / 2 + float(rng.uniform(-1, 1)) * reach_y,
            angle=float(rng.normal(0, 0.09)) + float(rng.choice([0.0, np.pi])),
            zoom=zoom,
            blur=(float(rng.normal(0, 2)), float(rng.normal(0, 2))) if blurred else (0.0, 0.0),
            defocus=float(rng.uniform(0.3, 1.3)) if rng.random() < 0.4 else 0.0,
            exposure=float(np.exp(rng.normal(0, 0.16))),
            noise=float(rng.uniform(1, 7)),
        )
        gain = self._light_map(rng, width, height)
        return self._expose(camera, gain, _noise_tile(rng, width, height), rng, width, height)

    def _camera(self, index: int) -> Camera:
        """Return the camera of the path at one moment."""
        time = index / FRAMES_PER_SECOND
        wave = np.sin(self._phase + time * self._pace * np.array([0.45, 0.37, 0.31, 0.26, 0.5, 0.9]))
        zoom = float(np.exp(0.16 * wave[3])) * self.height / 720
        reach_x = max(0.0, BOARD_WIDTH / 2 - self.width / 2 / zoom + 20)
        reach_y = max(0.0, BOARD_HEIGHT / 2 - self.height / 2 / zoom + 20)
        return Camera(
            x=BOARD_WIDTH / 2 + reach_x * float(wave[0]),
            y=BOARD_HEIGHT / 2 + reach_y * float(wave[1]),
            angle=0.10 * float(wave[2]),
            zoom=zoom,
            defocus=max(0.0, 1.1 * float(wave[4]) - 0.3) * self.height / 720,
            exposure=1.0 + 0.08 * float(wave[5]),
        )

    def _light_map(self, rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
        """Return a gain per pixel (128 is 1.0): gradient, vignette and colour temperature."""
        v, u = np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 40), indexing="ij")
        angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.25)
        vignette = rng.uniform(0.0, 0.18)
        gain = 1.0 + slope * (u * np.cos(angle) + v * np.sin(angle)) - vignette * (u * u + v * v)
        warmth = rng.normal(0, 0.06)
        colour = np.array([1.0 - warmth, 1.0, 1.0 + warmth])
        small = (gain[..., None] * colour * 128).clip(20, 255).astype(np.float32)
        return np.asarray(cv2.resize(small, (width, height)), np.uint8)

    def _expose(
        self,
        camera: Camera,
        gain: NDArray[np.uint8],
        noise: NDArray[np.uint8],
        rng: np.random.Generator,
        width: int,
        height: int,
    ) -> LabelledFrame:
        """Warp the board into the frame, add light, blur and noise, and map the boxes."""
        matrix = camera.matrix(width, height)
        size = (width, height)
        image = cv2.warpAffine(self.board, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        image = _blur(image, camera)
        image = cv2.multiply(image, gain, scale=camera.exposure / 128.0)
        dy, dx = int(rng.integers(64)), int(rng.integers(64))
        crop = noise[dy : dy + height, dx : dx + width]
        weight = camera.noise / 8.0
        image = cv2.addWeighted(image, 1.0, crop, weight, -128.0 * weight)
        boxes, keep = self._boxes(matrix, width, height)
        return np.asarray(image, np.uint8), boxes, self._classes[keep]

    def _boxes(
        self, matrix: NDArray[np.float64], width: int, height: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the boxes in the frame `[N, 4]` and which items they belong to."""
        points = self._outlines @ matrix[:, :2].T + matrix[:, 2] + 0.5
        full = np.concatenate([points.min(1), points.max(1)], axis=1)
        limit = np.array([width, height, width, height], np.float64)
        clipped = np.clip(full, 0.0, limit)
        area = np.prod(full[:, 2:] - full[:, :2], axis=1)
        sides = clipped[:, 2:] - clipped[:, :2]
        keep = (np.prod(sides, axis=1) >= MIN_VISIBLE * area) & (sides.min(1) >= MIN_SIDE)
        return clipped[keep].astype(np.float32), keep


def _blur(image: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
    """Apply motion blur and defocus."""
    if camera.defocus > 0.25:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), camera.defocus), np.uint8)
    length = float(np.hypot(*camera.blur))
    if length < 0.8:
        return image
    side = int(np.ceil(length)) // 2 * 2 + 3
    kernel = np.zeros((side, side), np.uint8)
    middle = (side // 2) * 16
    half = (round(camera.blur[0] * 8), round(camera.blur[1] * 8))
    cv2.line(kernel, (middle - half[0], middle - half[1]), (middle + half[0], middle + half[1]), 255, 1, cv2.LINE_AA, 4)
    weights = kernel.astype(np.float32) / max(1.0, float(kernel.sum()))
    return np.asarray(cv2.filter2D(image, -1, weights), np.uint8)


def _noise_tile(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Return noise of standard deviation 8 around 128, larger than a frame so that it can shift."""
    tile = np.frombuffer(rng.bytes((height + 64) * (width + 64)), np.uint8).reshape(height + 64, width + 64)
    # the mean of two uniform bytes is close enough to a bell, and far cheaper than one
    bell = (tile.astype(np.float32) + np.roll(tile, 7, axis=1).astype(np.float32) - 255.0) * (8.0 / 104.0) + 128.0
    return np.repeat(bell.astype(np.uint8)[..., None], 3, axis=2)
