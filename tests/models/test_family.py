"""The YOLO family: every style and size runs, and the NMS-free head takes what plain numpy takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trtdeploy.attention.area.module import AreaAttention
from trtdeploy.attention.psa.module import PSA
from trtdeploy.core.errors import UsageError
from trtdeploy.models.family import SIZES, STYLES, Network, NetworkOptions, Size, Style
from trtdeploy.models.family_heads import choose


@pytest.mark.parametrize("style", STYLES)
def test_the_dense_output_has_a_column_per_cell_and_the_chosen_a_row_per_detection(style: Style) -> None:
    model = Network(NetworkOptions(style=style, class_count=3, max_det=50)).eval()
    with torch.no_grad():
        out = model(torch.rand(2, 3, 64, 96))
    assert out.shape == ((2, 50, 6) if style == "v10" else (2, 4 + 3, 8 * 12 + 4 * 6 + 2 * 3))


@pytest.mark.parametrize("style", STYLES)
def test_sizes_grow(style: Style) -> None:
    counts = [_parameters(style, size) for size in SIZES]
    assert counts[0] * 2.5 < counts[1]
    assert counts[1] * 1.5 < counts[2]


@pytest.mark.parametrize(("style", "size", "millions"), [("v8", "n", 3.2), ("v10", "n", 2.3), ("v12", "n", 2.6)])
def test_parameters_are_near_the_published(style: Style, size: Size, millions: float) -> None:
    assert _parameters(style, size) == pytest.approx(millions * 1e6, rel=0.15)


def test_attention_is_where_the_papers_have_it() -> None:
    ten, twelve = (Network(NetworkOptions(style=style)) for style in ("v10", "v12"))
    assert [name for name, m in ten.named_modules() if isinstance(m, PSA)] == ["backbone.stage5.3"]
    areas = {name: m.area for name, m in twelve.named_modules() if isinstance(m, AreaAttention)}
    assert {area for name, area in areas.items() if name.startswith("backbone.stage4")} == {4}
    assert {area for name, area in areas.items() if name.startswith("backbone.stage5")} == {1}


def test_training_returns_the_maps_that_the_loss_takes() -> None:
    model = Network(NetworkOptions(class_count=3)).train()
    maps = model(torch.rand(2, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 67, 8, 8), (2, 67, 4, 4), (2, 67, 2, 2)]


@pytest.mark.parametrize(("cells", "max_det"), [(40, 10), (7, 10)])
def test_the_head_chooses_the_best_pairs_of_cell_and_class(cells: int, max_det: int) -> None:
    dense = torch.rand(2, 4 + 3, cells, generator=torch.Generator().manual_seed(0))
    chosen = choose(dense, 3, max_det).numpy()
    for image, rows in zip(dense.numpy(), chosen, strict=True):
        pairs = sorted(((image[4 + c, n], n, c) for n in range(cells) for c in range(3)), reverse=True)
        assert len(rows) == min(max_det, cells)
        for row, (score, n, c) in zip(rows, pairs, strict=False):
            x, y, w, h = image[:4, n]
            np.testing.assert_allclose(row, [x - w / 2, y - h / 2, x + w / 2, y + h / 2, score, c], atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"style": "v7"}, "no style 'v7'"), ({"size": "x"}, "no size 'x'"), ({"class_count": 0}, "class_count must be")],
)
def test_refuses_what_there_is_not(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        NetworkOptions(**wrong)  # type: ignore[arg-type]


def _parameters(style: Style, size: Size) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Network(NetworkOptions(style=style, size=size)).parameters())
