"""Kinds of files and hostile engines: the answer is an `EngineInfo` or an `EngineError`, never anything else."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtdeploy.core.engine_info import EngineInfo, NmsInfo, PassInfo, SourceInfo, TensorInfo, encode_info
from trtdeploy.core.errors import EngineError
from trtdeploy.engine.sniff import EngineKind, read_info, sniff

INFO = EngineInfo(
    backend="onnxruntime",
    input_kind="canvas",
    inputs=[TensorInfo(name="images", dtype="uint8", shape=["B", 64, 64, 3])],
    outputs=[TensorInfo(name="boxes", dtype="float32", shape=["B", 10, 4])],
    batch_min=1,
    batch_opt=1,
    batch_max=4,
    size_min=(64, 64),
    size_opt=(64, 64),
    size_max=(64, 64),
    stride=32,
    head="yolov8",
    class_names=["pad", "joint"],
    nms=NmsInfo(method="fixpoint"),
    passes=[PassInfo(name="head", stage="HEAD", changes=["Appended decoding."])],
    source=SourceInfo(name="m.onnx", sha256="0" * 64, opset=17),
)


def model(metadata: dict[str, str], weights: int = 10) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [weights])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [weights])],
        [numpy_helper.from_array(np.ones(weights, np.float32), "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(proto, metadata)
    return proto


def engine_bytes(**changes: object) -> bytes:
    document = INFO.to_dict() | changes
    return model({"author": "us", "trtdeploy": msgspec.json.encode(document).decode()}).SerializeToString()


GOOD = engine_bytes()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.engine"


def test_reads_the_metadata_that_onnx_itself_reads(file: Path) -> None:
    file.write_bytes(GOOD)
    assert sniff(file) is EngineKind.ONNX_ENGINE
    assert read_info(file) == INFO
    assert {p.key: p.value for p in onnx.load(file).metadata_props}["trtdeploy"] == encode_info(INFO)


def test_finds_the_metadata_in_front_of_the_graph(file: Path) -> None:
    whole = onnx.ModelProto.FromString(GOOD)
    entry = whole.metadata_props[1].SerializeToString()
    del whole.metadata_props[1]
    length = bytes([len(entry) & 0x7F | 0x80, len(entry) >> 7])
    file.write_bytes(bytes([14 << 3 | 2]) + length + entry + whole.SerializeToString())
    assert read_info(file) == INFO


def test_reads_a_large_engine_without_its_weights(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model({"trtdeploy": encode_info(INFO)}, weights=4_000_000)
    file.write_bytes(proto.SerializeToString())
    read = []
    opened = Path.open

    def counting(path: Path, *args: object) -> object:
        handle = opened(path, "rb", buffering=0)
        plain = handle.readinto

        class Counting:
            def __enter__(self) -> Counting:
                return self

            def __exit__(self, *_: object) -> None:
                handle.close()

            seek = handle.seek

            def read(self, count: int) -> bytes:
                data = bytearray(count)
                data = data[: plain(data)]
                read.append(len(data))
                return bytes(data)

        return Counting()

    monkeypatch.setattr(Path, "open", counting)
    assert read_info(file) == INFO
    assert sum(read) < 20_000 < file.stat().st_size


KINDS = {
    "onnx model": (model({"author": "us"}).SerializeToString(), EngineKind.ONNX_MODEL, "not an engine: build it first"),
    "truncated engine": (GOOD[:80], EngineKind.ONNX_TRUNCATED, "truncated: field 7 .* says it has"),
    "tensorrt plan": (b"ftrt" + bytes(60), EngineKind.TENSORRT, "this is a TensorRT plan"),
    "old tensorrt plan": (b"ptrt" + bytes(60), EngineKind.TENSORRT, "this is a TensorRT plan"),
    "rtx engine": (b"vtrt" + bytes(60), EngineKind.TENSORRT_RTX, "TensorRT for RTX"),
    "prefixed plan": (b"\x12\0\0\0" + b'{"stride": [1, 2]}' + b"ftrt", EngineKind.TENSORRT_PREFIXED, "behind another"),
    "openvino": (
        b'<?xml version="1.0"?>\n<net name="x" version="11">',
        EngineKind.OPENVINO_XML,
        r"OpenVINO model \(.xml",
    ),
    "pickle": (b"\x80\x04\x95", EngineKind.PYTORCH, "PyTorch checkpoint"),
    "safetensors": (b"\x05\0\0\0\0\0\0\0{    }", EngineKind.SAFETENSORS, "weights without a network"),
    "mp4": (b"\0\0\0\x20ftypisom", EngineKind.VIDEO, "this is a video, not an engine. Give it with --video"),
    "avi": (b"RIFF\0\0\0\0AVI LIST", EngineKind.VIDEO, "this is a video"),
    "mkv": (b"\x1a\x45\xdf\xa3", EngineKind.VIDEO, "this is a video"),
    "transport stream": ((b"\x47" + bytes(187)) * 3, EngineKind.VIDEO, "this is a video"),
    "png": (b"\x89PNG\r\n\x1a\n", EngineKind.IMAGE, "this is an image"),
    "jpeg": (b"\xff\xd8\xff\xe0", EngineKind.IMAGE, "this is an image"),
    "webp": (b"RIFF\0\0\0\0WEBP", EngineKind.IMAGE, "this is an image"),
    "text": ("Grüße, kein Netz\n".encode(), EngineKind.TEXT, "this is a text file"),
    "long text": (("ä" * 4000).encode()[1:][1:], EngineKind.TEXT, "this is a text file"),
    "empty": (b"", EngineKind.EMPTY, "the file is empty"),
    "zeros": (bytes(100), EngineKind.UNKNOWN, "of no kind that trtdeploy knows"),
    "random": (bytes(np.random.default_rng(5).integers(0, 256, 9999, np.uint8)), EngineKind.UNKNOWN, "of no kind"),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(99), EngineKind.UNKNOWN, "of no kind"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind_is_told_by_content(file: Path, name: str) -> None:
    data, kind, message = KINDS[name]
    file.write_bytes(data)
    assert sniff(file) is kind
    with pytest.raises(EngineError, match=message) as caught:
        read_info(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "{" not in str(caught.value)


def test_torch_zip_is_a_checkpoint_and_another_zip_is_not(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("best/data.pkl", b"x")
    assert sniff(file) is EngineKind.PYTORCH
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("notes", b"x")
    assert sniff(file) is EngineKind.UNKNOWN


def test_missing_file_folder_pipe_and_null_byte_are_errors(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"there is no such file. Build the engine first"):
        read_info(tmp_path / "none")
    with pytest.raises(EngineError, match="a folder, not an engine"):
        read_info(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EngineError, match="not a regular file"):
        read_info(tmp_path / "pipe")
    with pytest.raises(EngineError, match="cannot be read"):
        read_info("a\0b")


HOSTILE = {
    "metadata of 2 MB": (engine_bytes(head="x" * (2 << 20)), "at most 1048576 are read"),
    "unknown field": (engine_bytes(surprise=1), "unknown field `surprise`"),
    "wrong type": (engine_bytes(batch_max="8"), r"Expected `int`, got `str` - at `\$.batch_max`"),
    "size beyond the bound": (engine_bytes(size_max=[64, 1 << 30]), "at `\\$.size_max"),
    "sizes out of order": (engine_bytes(size_min=[640, 640]), "not in order"),
    "newer format": (engine_bytes(format=3), "has format 3; this trtdeploy reads 2"),
    "older format, whose gate was a text": (engine_bytes(format=1, gate="ungated"), "has format 1"),
    "no json": (model({"trtdeploy": "hello"}).SerializeToString(), "metadata is not valid"),
    "deep nesting": (model({"trtdeploy": "[" * 500_000}).SerializeToString(), "metadata is not valid"),
    "deep nesting in a field": (
        model({"trtdeploy": '{"backend":' + '{"a":' * 100_000 + "}" * 100_001}).SerializeToString(),
        "metadata is not valid",
    ),
    "two documents": (
        GOOD + engine_bytes()[len(model({}).SerializeToString()) :],
        "2 metadata documents, expected one",
    ),
    "key twice in one entry": (GOOD + bytes([114, 22]) + b"\x0a\x09trtdeploy" * 2, "metadata entry is damaged"),
    "no value": (model({}).SerializeToString() + bytes([114, 11]) + b"\x0a\x09trtdeploy", "metadata entry is damaged"),
    "bytes that are no UTF-8": (
        model({}).SerializeToString() + bytes([114, 15]) + b"\x0a\x09trtdeploy\x12\x02\xff\xfe",
        "metadata is not valid",
    ),
    "a million entries": (
        model({}).SerializeToString() + bytes([114, 0]) * 1_000_000,
        "more than 4096 metadata entries",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_engine_is_refused(file: Path, name: str) -> None:
    data, message = HOSTILE[name]
    file.write_bytes(data)
    with pytest.raises(EngineError, match=message):
        read_info(file)


def test_engine_cut_at_any_byte_is_refused_or_whole(file: Path) -> None:
    for length in range(len(GOOD)):
        file.write_bytes(GOOD[:length])
        with pytest.raises(EngineError):
            read_info(file)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_engine_is_read_or_refused(file: Path, data: st.DataObject) -> None:
    mutated = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        removed = data.draw(st.integers(0, 3))
        mutated[at : at + removed] = data.draw(st.binary(max_size=8))
    file.write_bytes(mutated)
    try:
        info = read_info(file)
    except EngineError:
        return
    assert isinstance(info, EngineInfo)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(file: Path, data: bytes) -> None:
    file.write_bytes(b"\x08\x09" + data)
    with pytest.raises(EngineError):
        read_info(file)
