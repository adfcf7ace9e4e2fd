"""Options of TensorRT: what is understood, and what is refused with the words of the command line."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from trtdeploy.backends import registry
from trtdeploy.backends.trt_options import CLI_NAMES, ProfileOptions, TensorRtOptions, parse_frame_sizes, parse_profile
from trtdeploy.cli.build import command
from trtdeploy.cli.main import main
from trtdeploy.cli.tensorrt_options import TENSORRT_NAMES
from trtdeploy.core.errors import UsageError
from trtdeploy.core.types import BatchRange, Size, SizeRange


@pytest.mark.parametrize(
    ("text", "batches", "sizes"),
    [
        ("night=1:1:4x480:640:640", (1, 1, 4), ((480, 480), (640, 640), (640, 640))),
        ("a.b-c_1=8", (8, 8, 8), None),
        ("wide=2x480x640", (2, 2, 2), ((480, 640),) * 3),
        (" x = 1:2:3x32x64:64x96:96x128 ", (1, 2, 3), ((32, 64), (64, 96), (96, 128))),
    ],
)
def test_a_profile_is_a_name_batches_and_sizes(text: str, batches: tuple[int, int, int], sizes: Any) -> None:
    profile = parse_profile(text)
    assert profile.batches == BatchRange(*batches)
    assert profile.sizes == (sizes and SizeRange(*(Size(*size) for size in sizes)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1:1:4", "is not valid. Expected NAME=BATCH"),
        ("night=", "is not valid. Expected NAME=BATCH"),
        ("night=4:1:8", r"Batch sizes 4:1:8 are not in order"),
        ("night=1x640:480:640", "Image sizes .* are not in order"),
        ("night=1:2", "has 2 values. Expected one, or MIN:OPT:MAX"),
        ("night=1xfour", "'four' in .* is not a whole number"),
        ("night=1x1x2x3", "is not a size"),
        ("two words=1", "Profile name 'two words' is not valid"),
        ("night=0", "Batch 0 is not positive"),
    ],
)
def test_a_wrong_profile_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_profile(text)


def test_frame_sizes_are_one_or_three() -> None:
    assert parse_frame_sizes("1080x1920") == SizeRange.fixed(Size(1080, 1920))
    assert parse_frame_sizes("480x640:720x1280:1080x1920").opt == Size(720, 1280)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"targets": ("sm90",)},
            r"Target 'sm90' is unknown. Expected one or more of sm75, sm80, sm86, sm89, sm120, sm121",
        ),
        ({"targets": ("sm86", "sm86")}, "Target 'sm86' is given twice"),
        ({"profiles": (ProfileOptions(name="a", batches=BatchRange(1, 1, 1)),) * 2}, "Profile 'a' is given twice"),
        ({"attention": "fast"}, "Attention 'fast' is unknown. Expected auto, native or plugin"),
        ({"workspace_mib": 0}, "workspace 0 is out of range. Expected 1 to .* MiB"),
        ({"dla": -1}, "DLA core -1 is out of range"),
        ({"optimization_level": 6}, "level 6 is out of range. Expected 0 to 5"),
        ({"max_aux_streams": -1}, "auxiliary streams -1 is out of range"),
        ({"timeout_s": 0}, "Time limit 0 s is not positive"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_option_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TensorRtOptions(**values)


OTHER = {
    "targets": ("sm86",), "profiles": (ProfileOptions(name="a", batches=BatchRange(1, 1, 1)),),
    "frame_sizes": SizeRange.fixed(Size(8, 8)), "attention": "native", "workspace_mib": 1, "dla": 0,
    "hardware_compatible": True, "version_compatible": True, "refit": True, "sparsity": True, "optimization_level": 1,
    "max_aux_streams": 1, "timing_cache": False, "timeout_s": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("name", sorted(CLI_NAMES))
def test_an_option_is_taken_or_refused_with_backend_and_option(backend: str, name: str) -> None:
    options = TensorRtOptions(**{name: OTHER[name]})  # type: ignore[arg-type]
    takes = registry.get(backend).takes
    if name in takes:
        options.check(backend, takes)
    else:
        with pytest.raises(
            UsageError, match=rf"Option {CLI_NAMES[name]} is not for the backend {backend}\. .*--backend t"
        ):
            options.check(backend, takes)


def test_the_command_line_has_every_option_under_its_name() -> None:
    shown = CliRunner().invoke(command, ["--help"]).output
    parameters = {parameter.name: parameter for parameter in command.params}
    assert set(TENSORRT_NAMES) <= set(parameters)
    assert len(TENSORRT_NAMES) == len(CLI_NAMES)
    for name in CLI_NAMES.values():
        assert name in shown


def test_an_option_of_tensorrt_is_refused_before_the_model_is_read(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"never read")
    arguments = ["build", str(tmp_path / "m.onnx"), "--backend", "onnxruntime", "--target", "sm86"]
    assert main(arguments) == UsageError.exit_code
    assert "Option --target is not for the backend onnxruntime" in capsys.readouterr().err
