"""An engine is made in a folder beside its target, and takes its place whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trtdeploy.core.errors import BuildError, SinkError
from trtdeploy.core.staging import open_staging


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_all_that_was_made_is_published_and_what_is_outdated_goes(tmp_path: Path) -> None:
    old = ["x.engine", "x.engine.sha256", "x.engine.gate.json", f"x.engine-{'a' * 16}.weights", "x.engine.txt", "y"]
    for name in old:
        (tmp_path / name).write_text("old")
    with open_staging(tmp_path / "x.engine") as staging:
        staging.path.write_text("new")
        staging.path.with_name(f"x.engine-{'b' * 16}.weights").write_text("new")
        assert (tmp_path / "x.engine").read_text() == "old"
        staging.publish()
    assert names_in(tmp_path) == ["x.engine", f"x.engine-{'b' * 16}.weights", "x.engine.txt", "y"]
    assert (tmp_path / "x.engine").read_text() == "new"
    assert (tmp_path / "x.engine.txt").read_text() == "old"


def test_checksum_comes_after_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.engine").write_text("old")
    (tmp_path / "x.engine.sha256").write_text("of the old")
    replace, seen = os.replace, []

    def watched(source: Path, target: Path) -> None:
        seen.append((Path(target).name, "x.engine.sha256" in names_in(tmp_path)))
        replace(source, target)

    with open_staging(tmp_path / "x.engine") as staging:
        staging.path.write_text("new")
        staging.path.with_name("x.engine.sha256").write_text("of the new")
        staging.path.with_name(f"x.engine-{'b' * 16}.weights").write_text("new")
        monkeypatch.setattr(os, "replace", watched)
        staging.publish()
    assert seen == [(f"x.engine-{'b' * 16}.weights", False), ("x.engine", False), ("x.engine.sha256", False)]


def test_unpublished_work_leaves_nothing_and_errors_name_the_target(tmp_path: Path) -> None:
    def build() -> None:
        with open_staging(tmp_path / "x.engine") as staging:
            staging.path.write_text("half")
            raise BuildError(f"{staging.path}: the library crashed")

    with pytest.raises(BuildError, match=rf"^{tmp_path}/x\.engine: the library crashed$"):
        build()
    assert names_in(tmp_path) == []


def test_folder_of_a_killed_build_is_removed_and_that_of_a_running_one_stays(tmp_path: Path) -> None:
    dead = tmp_path / f".x.engine.{'0' * 12}.staging"
    dead.mkdir()
    (dead / ".lock").touch()
    (dead / "x.engine").write_text("half")
    with open_staging(tmp_path / "x.engine") as running, open_staging(tmp_path / "x.engine"):
        assert not dead.exists()
        assert running.path.parent.exists()
        assert len(names_in(tmp_path)) == 2
    assert names_in(tmp_path) == []


def test_symbolic_link_is_followed_and_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.engine").symlink_to(tmp_path / "real" / "x.engine")
    with open_staging(tmp_path / "link.engine") as staging:
        staging.path.write_text("new")
        staging.publish()
    assert (tmp_path / "link.engine").is_symlink()
    assert (tmp_path / "real" / "x.engine").read_text() == "new"
    with (
        pytest.raises(SinkError, match="Cannot write /dev/null: it is not a regular file"),
        open_staging(Path("/dev/null")),
    ):
        pass


def test_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(SinkError, match=r"Cannot write .*nowhere/x\.engine: No such file"),
        open_staging(tmp_path / "nowhere" / "x.engine"),
    ):
        pass
