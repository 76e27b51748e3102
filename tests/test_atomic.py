"""Files that are whole or not there."""

import os
import time

import pytest
from flowmapsr.flowmapsr_core.atomic import remove_partials, replacing, write_text
from flowmapsr.flowmapsr_core.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_by_a_whole_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old")
    with replacing(path) as partial:
        assert partial.parent == path.parent
        with replacing(path) as other:  # a process of another host may have the same number
            assert other != partial
            other.write_text("old")
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with replacing(path) as partial:
            partial.write_text("ha")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("sync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append("replace"), replace(old, new)))
    write_text(tmp_path / "a.txt", "new")
    assert done == ["sync", "replace", "sync"][: 3 if os.name == "posix" else 2]


def test_a_drive_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "open", fail)
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_bytes(b"new")
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_another_program_has_open_is_called_that(tmp_path, monkeypatch):
    def fail(*_):
        error = PermissionError(13, "Access is denied")
        error.winerror = 5
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"a\.txt is open in another program, such as ComfyUI; close it there"):
        write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == []


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("ж" * 120 + ".txt")
    write_text(path, "new")
    assert names(tmp_path) == [path.name]


def test_what_killed_processes_left_is_removed(tmp_path):
    for name in ("a.txt", ".a.txt.1.partial", ".b.txt.2.partial"):
        (tmp_path / name).touch()
    (tmp_path / "state.partial").mkdir()
    an_hour_ago = time.time() - 3601
    os.utime(tmp_path / ".b.txt.2.partial", (an_hour_ago, an_hour_ago))
    remove_partials(tmp_path, older_than=3600)
    assert names(tmp_path) == [".a.txt.1.partial", "a.txt", "state.partial"]
    remove_partials(tmp_path)
    assert names(tmp_path) == ["a.txt", "state.partial"]
