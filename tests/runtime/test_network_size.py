"""SizeChooser: which input size a frame gets, and what the engine refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_fakes import engine_info

from trtdeploy.core.errors import EngineError, UsageError
from trtdeploy.core.preprocess import Letterbox
from trtdeploy.core.types import Size
from trtdeploy.runtime.network_size import SizeChooser

RANGE = ((480, 480), (640, 640), (1088, 1088))
WIDE = ((32, 32), (640, 640), (1088, 1088))


def test_the_engines_optimum_is_the_default() -> None:
    assert SizeChooser(engine_info(sizes=RANGE)).choose(720, 1280, "a") == Size(640, 640)


def test_a_size_within_the_range_is_taken() -> None:
    assert SizeChooser(engine_info(sizes=RANGE), Size(480, 800)).choose(720, 1280, "a") == Size(480, 800)


@pytest.mark.parametrize("size", [Size(448, 640), Size(640, 1120), Size(500, 500)], ids=str)
def test_a_size_that_the_engine_does_not_accept_is_refused(size: Size) -> None:
    with pytest.raises(UsageError, match=rf"Network size {size} .*480x480:640x640:1088x1088 in multiples of 32"):
        SizeChooser(engine_info(sizes=RANGE), size)


@pytest.mark.parametrize(
    ("frame", "canvas"),
    [
        ((720, 1280), Size(384, 640)),
        ((1280, 720), Size(640, 384)),
        ((640, 640), Size(640, 640)),
        ((100, 1000), Size(64, 640)),
        ((1080, 1920), Size(384, 640)),
    ],
    ids=str,
)
def test_rect_takes_the_smallest_canvas_that_holds_the_scaled_frame(frame: tuple[int, int], canvas: Size) -> None:
    assert SizeChooser(engine_info(sizes=WIDE), rect=True).choose(*frame, "a") == canvas


def test_rect_stays_within_the_engines_range() -> None:
    assert SizeChooser(engine_info(sizes=RANGE), rect=True).choose(720, 1280, "a") == Size(480, 640)


def test_an_engines_own_sizes_need_not_be_multiples_of_the_stride() -> None:
    fixed = engine_info(sizes=((500, 500),) * 3)
    assert SizeChooser(fixed).choose(720, 1280, "a") == Size(500, 500)
    odd = engine_info(sizes=((100, 100), (500, 500), (700, 700)))
    assert SizeChooser(odd).choose(720, 1280, "a") == Size(500, 500)
    assert SizeChooser(odd, rect=True).choose(720, 1280, "a") == Size(288, 512)
    assert SizeChooser(odd, Size(700, 700), rect=True).choose(700, 700, "a") == Size(700, 700)
    assert SizeChooser(odd, Size(700, 700), rect=True).choose(350, 700, "a") == Size(700, 700), "700x352 is neither"


def test_rect_means_nothing_to_an_engine_of_one_size() -> None:
    fixed = ((640, 640),) * 3
    assert SizeChooser(engine_info(sizes=fixed), rect=True).choose(720, 1280, "a") == Size(640, 640)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_rect_holds_the_frame_at_the_same_scale_as_the_square(height: int, width: int) -> None:
    canvas = SizeChooser(engine_info(sizes=WIDE), rect=True).choose(height, width, "a")
    square = Letterbox.of(Size(height, width), Size(640, 640)).scaled
    assert square.fits(canvas)
    assert canvas.height - square.height < 32
    assert canvas.width - square.width < 32
    assert canvas.snapped(32) == canvas


def test_an_engine_that_takes_frames_gets_each_at_its_own_size() -> None:
    chooser = SizeChooser(engine_info("frames"))
    assert chooser.choose(123, 457, "a") == Size(123, 457)


def test_an_engine_for_frames_of_one_size_names_the_stream_that_has_another() -> None:
    chooser = SizeChooser(engine_info("frames", frame_shape=("B", 720, 1280, 3)))
    assert chooser.choose(720, 1280, "cam1") == Size(720, 1280)
    with pytest.raises(EngineError, match=r"Stream 'cam3': frame of 480x640; the engine accepts frames of 720x1280"):
        chooser.choose(480, 640, "cam3")


@pytest.mark.parametrize("options", [{"size": Size(64, 64)}, {"rect": True}], ids=str)
def test_network_sizes_are_refused_where_the_letterbox_is_in_the_graph(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="takes frames of any size"):
        SizeChooser(engine_info("frames"), **options)


def test_a_malformed_input_is_refused() -> None:
    with pytest.raises(EngineError, match=r"expected \[B,H,W,3\]"):
        SizeChooser(engine_info("frames", frame_shape=("B", 3)))
