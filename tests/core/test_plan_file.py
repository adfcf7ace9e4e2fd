"""Plan files: checksum beside them, metadata in the network's name, damage is said."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from trtdeploy.core import plan_file
from trtdeploy.core.engine_info import EngineInfo, PassInfo, decode_info, encode_info
from trtdeploy.core.errors import BuildError, EngineError, SinkError

sys.path.insert(0, str(Path(__file__).parents[1] / "backends"))
import tiny_detector

INFO = tiny_detector.info("tensorrt-rtx", class_names=["pad", "joint"])


def plan(name: str = "", *, magic: bytes = b"vtrt", version: bytes = bytes([1, 7, 1, 116]), mask: int = 0x22) -> bytes:
    """Return bytes in the layout that TensorRT-RTX 1.7 writes."""
    text = name.encode()
    body = b"\x05\0\0\0" + len(text).to_bytes(8, "little") + text + b"\x01\x80\x08\x80" + bytes(5000)
    size = (64 + len(body)).to_bytes(8, "little")
    head = magic + bytes(4) + b"\x02" + bytes(7) + size + version + magic + mask.to_bytes(4, "little")
    return head.ljust(64, b"\0") + body


def test_the_name_gives_back_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(plan(plan_file.network_name(INFO)))
    header = plan_file.read_plan(path)
    assert (header.kind, header.version, header.targets) == ("tensorrt-rtx", "1.7.1.116", ("sm80", "sm121"))
    assert not header.is_truncated
    assert header.metadata is not None
    assert decode_info(header.metadata, "x") == INFO


@pytest.mark.parametrize("before", [0, 1 << 20, (1 << 20) - 80, (1 << 20) - 90, 3 << 20], ids=lambda n: f"after {n}")
def test_the_name_is_found_wherever_it_stands(tmp_path: Path, before: int) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(plan(magic=b"ftrt")[:64] + bytes(before) + plan_file.network_name(INFO).encode() + b"z" * 9)
    header = plan_file.read_plan(path)
    assert header.metadata == encode_info(INFO).encode()


def test_a_plan_of_tensorrt_with_another_layout_claims_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(b"ftrt" + bytes(range(4, 64)) + bytes(100))
    header = plan_file.read_plan(path)
    assert (header.version, header.declared_bytes, header.is_truncated, header.metadata) == (None, None, False, None)


def test_a_plan_of_tensorrt_in_the_known_layout_has_version_and_size(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(plan(magic=b"ftrt", version=bytes([10, 13, 3, 9])))
    header = plan_file.read_plan(path)
    assert (header.kind, header.version, header.targets) == ("tensorrt", "10.13.3.9", ())
    assert header.declared_bytes == header.size_bytes


@pytest.mark.parametrize("size", [4, 20, 63, 64, 5000])
def test_a_cut_plan_is_truncated(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(plan()[:size])
    assert plan_file.read_plan(path).is_truncated


def test_other_files_are_no_plans(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello")
    with pytest.raises(EngineError, match=r"not a TensorRT plan: it starts with b'hell'"):
        plan_file.read_plan(tmp_path / "x")
    with pytest.raises(EngineError, match="cannot be read"):
        plan_file.read_plan(tmp_path / "none")


@pytest.mark.parametrize("spoil", ["length", "text", "cut", "bomb"])
def test_damaged_metadata_are_an_error(tmp_path: Path, spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = plan_file.network_name(INFO)
    path = tmp_path / "x.engine"
    if spoil == "length":
        name = name.replace("metadata:1:", "metadata:1:x")
    elif spoil == "text":
        middle = len(name) // 2
        name = name[:middle] + ("0" if name[middle] != "0" else "1") + name[middle + 1 :]
    elif spoil == "bomb":
        monkeypatch.setattr(plan_file, "MAX_METADATA_BYTES", 100)
    path.write_bytes(plan(name)[:-5500] if spoil == "cut" else plan(name))
    with pytest.raises(EngineError, match=r"x\.engine: the engine's metadata is damaged: .*Build the engine again"):
        plan_file.read_plan(path)


def test_what_has_no_room_in_a_name_is_left_out_by_rank() -> None:
    def random_text(index: int) -> str:
        return hashlib.sha256(str(index).encode()).hexdigest()

    def known(info: EngineInfo) -> EngineInfo:
        name = plan_file.network_name(info)
        assert len(name) <= plan_file.MAX_NAME_CHARACTERS
        return decode_info(plan_file.decode_name(name.encode(), "x"), "x")

    passes = [PassInfo(name="p", stage="FUSE", changes=[random_text(i) for i in range(99)], refusals=[random_text(7)])]
    many = msgspec.structs.replace(INFO, passes=passes)
    assert known(many).class_names == INFO.class_names
    assert known(many).passes[0].changes == ["99 changes; a plan has no room for the text"]
    assert known(many).passes[0].refusals == ["1 refusals; a plan has no room for the text"]
    more = msgspec.structs.replace(many, class_names=[random_text(i) for i in range(1203)])
    assert known(more).class_names == []
    outputs = [msgspec.structs.replace(INFO.outputs[0], name=random_text(i) * 3) for i in range(120)]
    most = msgspec.structs.replace(INFO, outputs=outputs)
    with pytest.raises(BuildError, match=r"has room for 4096.*shorten"):
        plan_file.network_name(most)


@pytest.mark.parametrize("name", ["x.engine", "with space.plan", "back\\slash", "line\nend"])
def test_sha256sum_accepts_the_file_beside_the_plan(tmp_path: Path, name: str) -> None:
    plan_file.write_plan(plan(), tmp_path / name, INFO)
    command = ["sha256sum", "--check", "--strict", f"{name}.sha256"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert plan_file.verify_plan(tmp_path / name) == hashlib.sha256(plan()).hexdigest()
    (tmp_path / name).write_bytes(plan()[:-1])
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1


def test_the_file_beside_the_plan_has_what_is_known_later(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    plan_file.write_plan(plan(), path)
    assert plan_file.read_beside(path) is None
    plan_file.record_info(path, INFO)
    assert plan_file.read_beside(path) == encode_info(INFO).encode()
    assert plan_file.verify_plan(path) == hashlib.sha256(plan()).hexdigest()
    path.write_bytes(b"other")
    with pytest.raises(EngineError, match="changed after it was built"):
        plan_file.record_info(path, INFO)


def test_a_plan_without_the_file_beside_it_is_unverified(tmp_path: Path) -> None:
    (tmp_path / "x.engine").write_bytes(plan())
    assert plan_file.verify_plan(tmp_path / "x.engine") is None
    assert plan_file.read_beside(tmp_path / "x.engine") is None


def test_a_write_that_ends_before_the_checksum_leaves_no_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.engine"
    plan_file.write_plan(plan(), path)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_file, "_write_sidecar", killed)
    with pytest.raises(KeyboardInterrupt):
        plan_file.write_plan(plan(mask=1), path)
    assert path.read_bytes() == plan(mask=1)
    assert plan_file.verify_plan(path) is None


def test_one_changed_byte_is_tampering(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    plan_file.write_plan(plan(), path)
    data = bytearray(plan())
    data[-1] ^= 1
    told = (
        rf"x\.engine: the plan was changed .*{hashlib.sha256(data).hexdigest()}.*{hashlib.sha256(plan()).hexdigest()}"
    )
    with pytest.raises(EngineError, match=told):
        plan_file.verify_plan(path, data)
    assert plan_file.verify_plan(path) is not None
    path.write_bytes(data)
    with pytest.raises(EngineError, match=told):
        plan_file.verify_plan(path)


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"abc  x.engine\n", b"\xff" * 70], ids=str)
def test_a_file_beside_the_plan_without_a_checksum_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.engine").write_bytes(plan())
    (tmp_path / "x.engine.sha256").write_bytes(content)
    with pytest.raises(EngineError, match="no checksum as sha256sum writes it"):
        plan_file.verify_plan(tmp_path / "x.engine")


def test_a_failed_write_leaves_the_old_plan_and_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    plan_file.write_plan(plan(), path)
    with pytest.raises(ZeroDivisionError), plan_file.place_plan(path) as pending:
        pending.path.write_bytes(b"half" * (1 // 0))
    assert plan_file.verify_plan(path) == hashlib.sha256(plan()).hexdigest()
    assert sorted(os.listdir(tmp_path)) == ["x.engine", "x.engine.sha256"]
    with pytest.raises(SinkError, match="Cannot write"):
        plan_file.write_plan(plan(), tmp_path / "none" / "x.engine")
