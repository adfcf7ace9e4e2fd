"""What can be exported: the family, a function's model, torch checkpoints; and the command that does it."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from trtdeploy.cli.main import main
from trtdeploy.core.errors import ModelError, UsageError
from trtdeploy.export.checkpoints import load_checkpoint
from trtdeploy.export.from_callable import callable_subject
from trtdeploy.export.from_family import family_subject
from trtdeploy.export.from_torchvision import load_weights
from trtdeploy.export.options import ExportOptions
from trtdeploy.export.write import export_model
from trtdeploy.graph.load import load_model
from trtdeploy.models.family import STYLES, Network, NetworkOptions, Style

SCRIPTS = Path(__file__).parents[2] / "export"


@pytest.mark.parametrize(("style", "head"), [("v8", "yolov8"), ("v10", "yolov10"), ("v12", "yolov8")])
def test_every_style_is_exported_with_its_attention_and_its_head_recognised(
    tmp_path: Path, style: Style, head: str
) -> None:
    from trtdeploy.cli.onnx_facts import describe_model

    torch.manual_seed(0)
    subject = family_subject(NetworkOptions(style=style, class_count=3), attention="coordatt", at=["neck", "head"])
    path = tmp_path / "m.onnx"
    report = export_model(subject, path, ExportOptions())
    assert sum(a.kind == "CoordAtt" for a in report.attention) == 6
    assert "copy with the normalisation statistics" in " ".join(report.notes)  # fresh weights tell little
    facts = describe_model(path)
    assert facts["head"] == head
    assert load_model(path).opset == 17
    names = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert names["names"] == str({0: "class0", 1: "class1", 2: "class2"})


def test_weights_of_the_family_are_loaded_whole(tmp_path: Path) -> None:
    options = NetworkOptions(class_count=2)
    path = tmp_path / "w.pt"
    torch.save({"averaged": Network(options).state_dict()}, path)
    family_subject(options, weights=path)
    with pytest.raises(ModelError, match=r"does not fit the model: .*attention included"):
        family_subject(options, attention="se", weights=path)
    with pytest.raises(UsageError, match="Got 1 class names for 2 classes"):
        family_subject(options, names=["a"])


def test_weights_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds no state_dict"):
        load_weights(nn.Linear(1, 1), path)
    torch.save(collections.UserDict(), path)
    with pytest.raises(ModelError, match="with weights_only"):
        load_weights(nn.Linear(1, 1), path)
    path.write_text("no checkpoint")
    with pytest.raises(ModelError, match="with weights_only"):
        load_weights(nn.Linear(1, 1), path)
    with pytest.raises(ModelError, match="cannot read the weights"):
        load_weights(nn.Linear(1, 1), tmp_path / "missing.pt")


class Executed:
    """What a hostile checkpoint brings."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the checkpoint was executed')",)


def test_checkpoints_run_nothing_and_name_only_what_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"model": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SiLU())}, path)
    assert isinstance(load_checkpoint(path)["model"], nn.Sequential)
    torch.save({"model": Executed()}, path)
    with pytest.raises(ModelError, match=r"names .*exec, which is not on the list"):
        load_checkpoint(path)
    torch.save({"d": collections.UserDict()}, path)
    with pytest.raises(ModelError, match=r"--allow collections\.UserDict"):
        load_checkpoint(path)
    assert load_checkpoint(path, ["collections.UserDict"])
    with pytest.raises(UsageError, match=r"no class no\.Such"):
        load_checkpoint(path, ["no.Such"])


FUNCTIONS = """
import torch
def build():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
def wrong():
    return 3
def broken():
    raise RuntimeError("no weights")
"""


def test_functions(tmp_path: Path) -> None:
    path = tmp_path / "made_models.py"
    path.write_text(FUNCTIONS)
    assert isinstance(callable_subject(f"{path}:build").model, nn.Sequential)
    assert isinstance(callable_subject("torch.nn:Flatten").model, nn.Flatten)
    for name, error, words in (
        ("build", UsageError, "names no function"),
        (f"{path}:nothing", UsageError, "has no function 'nothing'"),
        (f"{tmp_path}/none.py:build", UsageError, "cannot be imported|There is no file"),
        ("no_such_package:build", UsageError, "cannot be imported: ModuleNotFoundError"),
        (f"{path}:wrong", ModelError, "returned a int"),
        (f"{path}:broken", ModelError, "failed: RuntimeError: no weights"),
    ):
        with pytest.raises(error, match=words):
            callable_subject(name)


def test_the_command_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "made_models.py").write_text(FUNCTIONS)
    out = tmp_path / "m.onnx"
    function = f"{tmp_path}/made_models.py:build"
    assert main(["export", "any", function, "-o", str(out), "--attention", "se", "--at", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["attention"][0]["path"] == "0.attention"
    assert len(document["compared"]) == 3
    assert onnx.load(out).producer_name == "trtdeploy"
    assert main(["export", "any", function, "-o", str(out)]) == 2
    assert "exists. Use --force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["yolo", "--at", "neck"], "say which with --attention"),
        (["yolo", "--fixed", "640"], "is not a shape"),
        (["yolo", "--family", "v3"], "no style 'v3'"),
        (["yolo", "--opset", "9"], "Opset 9 is not supported"),
        (["yolo", "--attention", "sparkle"], "no attention kind 'sparkle'"),
        (["any", "nothing"], "names no function"),
        (["yolo", "--exporter", "magic"], "magic"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    assert main(["export", *args, "-o", str(tmp_path / "m.onnx")]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_options_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[export.yolo]\nfamily = "v3"\n')
    assert main(["export", "yolo", "--config", str(config), "-o", str(tmp_path / "m.onnx")]) == 2
    assert "no style 'v3'" in capsys.readouterr().err
    config.write_text('[export]\nyolo = "v3"\n')
    assert main(["export", "yolo", "--config", str(config), "-o", str(tmp_path / "m.onnx")]) == 2
    assert "Expected a table [export.yolo]" in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("export_*.py")))
def test_scripts_are_the_command(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert f"export {script[7:-3]}" in done.stdout
    assert "--attention" in done.stdout


def test_styles_are_all_there() -> None:
    assert set(STYLES) == {"v8", "v10", "v12"}
