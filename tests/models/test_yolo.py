"""The YOLO family: shapes, sizes, attention, and decoding against a naive decoder."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trtdeploy.attention.cbam.module import CBAM
from trtdeploy.attention.coordatt.module import CoordAtt
from trtdeploy.models.yolo import STRIDES, YOLO, AttentionName, YOLOOptions, decode, yolo_n, yolo_s


def _naive_decode(maps: list[np.ndarray], bins: int) -> np.ndarray:
    """Decode cell by cell."""
    batch, channels = maps[0].shape[:2]
    cells: list[np.ndarray] = []
    for level, stride in zip(maps, STRIDES, strict=True):
        for i in range(level.shape[2]):
            for j in range(level.shape[3]):
                out = np.full((batch, channels - 4 * bins + 4), np.nan)
                for b in range(batch):
                    values = level[b, :, i, j].astype(np.float64)
                    sides = []
                    for side in range(4):
                        logits = values[side * bins : (side + 1) * bins]
                        weights = np.exp(logits - logits.max())
                        sides.append(float((weights / weights.sum() * np.arange(bins)).sum()) * stride)
                    x, y = (j + 0.5) * stride, (i + 0.5) * stride
                    x0, y0, x1, y1 = x - sides[0], y - sides[1], x + sides[2], y + sides[3]
                    out[b, :4] = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
                    out[b, 4:] = 1 / (1 + np.exp(-values[4 * bins :]))
                cells.append(out)
    return np.stack(cells, axis=2)


def _random_maps(batch: int, height: int, width: int, channels: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, height // s, width // s, generator=generator) * 3 for s in STRIDES]


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (2, 64, 96), (3, 96, 32)])
@pytest.mark.parametrize("bins", [8, 16], ids=lambda b: f"{b}-bins")
def test_decoding_equals_the_naive_decoder(batch: int, height: int, width: int, bins: int) -> None:
    maps = _random_maps(batch, height, width, 4 * bins + 3)
    expected = _naive_decode([m.numpy() for m in maps], bins)
    np.testing.assert_allclose(decode(maps, bins).numpy(), expected, atol=1e-3, rtol=1e-5)


def test_the_tolerance_notices_a_wrong_stride() -> None:
    maps = _random_maps(1, 32, 64, 4 * 8 + 3)
    expected = _naive_decode([m.numpy() for m in maps], 8)
    assert np.abs(decode(maps, 8).numpy() * 1.001 - expected).max() > 1e-3


@pytest.mark.parametrize("attention", [None, "cbam", "coordatt"], ids=str)
def test_the_output_has_one_column_per_cell(attention: AttentionName | None) -> None:
    model = yolo_n(5, attention).eval()
    with torch.no_grad():
        out = model(torch.rand(2, 3, 64, 96))
    assert out.shape == (2, 4 + 5, 8 * 12 + 4 * 6 + 2 * 3)
    assert out[:, 4:].min() >= 0
    assert out[:, 4:].max() <= 1
    assert (out[:, 2:4] > 0).all()


@pytest.mark.parametrize(("attention", "kind"), [("cbam", CBAM), ("coordatt", CoordAtt)])
def test_attention_sits_at_the_backbone_end_and_in_the_neck(attention: AttentionName, kind: type) -> None:
    names = [name for name, module in yolo_n(2, attention).named_modules() if isinstance(module, kind)]
    assert names == ["stage5.3", "out3.1", "out4.1", "out5.1"]
    assert not any(isinstance(module, CBAM | CoordAtt) for module in yolo_n(2).modules())


def test_size_n_fits_in_eight_megabytes() -> None:
    parameters = sum(p.numel() for p in yolo_n(7, "coordatt").parameters())
    assert parameters < 2_000_000


def test_size_s_is_larger() -> None:
    assert sum(p.numel() for p in yolo_s(7).parameters()) > 3 * sum(p.numel() for p in yolo_n(7).parameters())


def test_fresh_scores_are_low() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        scores = yolo_n(4).eval()(torch.rand(1, 3, 64, 64))[:, 4:]
    assert math.isclose(float(scores.mean()), 0.01, abs_tol=0.01)


def test_refuses_unknown_attention() -> None:
    options = YOLOOptions(class_count=2, attention="sparkle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="attention must be 'cbam', 'coordatt' or None, got 'sparkle'"):
        YOLO(options)


def test_refuses_no_classes() -> None:
    with pytest.raises(ValueError, match="class_count must be at least 1, got 0"):
        yolo_n(0)
