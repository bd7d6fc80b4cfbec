"""Artifact files: named by content, whole or absent, verified when read."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.errors import (
    ArtifactNotFound,
    ConfigurationError,
    EncodingError,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreReadOnly,
)
from dagger_dsl.store import artifacts
from dagger_dsl.store.artifacts import ArtifactFiles
from dagger_dsl.store.payloads import Payloads

DATA = b"x" * 40_000
ID = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def files(tmp_path: Path) -> ArtifactFiles:
    return ArtifactFiles(tmp_path / "artifacts")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.row("C33")
def test_32767_bytes_stay_inline_and_32768_go_to_a_file(files: ArtifactFiles) -> None:
    assert files.threshold == 32_768
    assert Payloads(files).place(b"x" * 32_767)[1] is None
    assert Payloads(files).place(b"x" * 32_768)[0] is None


@pytest.mark.row("C35", "C36")
def test_an_artifact_is_named_by_the_sha256_of_its_bytes(files: ArtifactFiles) -> None:
    assert files.write(DATA) == ID
    assert (files.root / ID[:2] / ID).read_bytes() == DATA
    assert files.path(ID) == files.root / ID[:2] / ID


@pytest.mark.row("C35")
def test_the_same_bytes_twice_are_one_file_that_is_not_rewritten(files: ArtifactFiles) -> None:
    files.write(DATA)
    before = files.path(ID).stat()
    assert files.write(DATA) == ID
    after = files.path(ID).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, len(DATA))
    assert list(files.ids()) == [ID]
    assert files.size() == len(DATA)


@pytest.mark.row("C34")
def test_a_moved_folder_still_resolves(files: ArtifactFiles, tmp_path: Path) -> None:
    files.write(DATA)
    moved = files.root.rename(tmp_path / "moved")
    assert ArtifactFiles(moved).read(ID) == DATA
    with pytest.raises(ArtifactNotFound, match="was not moved together with its database"):
        files.read(ID)


@pytest.mark.row("C37")
def test_reading_and_streaming_give_the_bytes(files: ArtifactFiles) -> None:
    for data in (b"", b"a", DATA, os.urandom(300_000)):
        artifact_id = files.write(data)
        assert files.read(artifact_id) == data
        with files.open(artifact_id) as stream:
            assert stream.read() == data
            assert stream.read(1) == b""
        with files.open(artifact_id) as stream:
            assert b"".join(iter(lambda: stream.read(999), b"")) == data


@pytest.mark.row("C37")
@pytest.mark.parametrize(
    "artifact_id",
    ["0" * 64, "", "x", "0" * 63, "0" * 65, "0" * 64 + "\n", "A" * 64, "../" + "0" * 61, None, 5],
)
def test_an_unknown_or_malformed_id_is_not_found(files: ArtifactFiles, artifact_id: Any) -> None:
    files.write(DATA)
    for use in (files.read, files.open):
        with pytest.raises(ArtifactNotFound):
            use(artifact_id)


def test_a_malformed_id_removes_nothing(files: ArtifactFiles) -> None:
    with pytest.raises(ArtifactNotFound):
        files.remove("../../etc/passwd")
    assert not files.remove("0" * 64)


@given(st.text())
def test_no_text_leads_out_of_the_folder(text: str) -> None:
    with pytest.raises(ArtifactNotFound):
        ArtifactFiles("nowhere").path(text)


def test_folders_and_files_are_for_their_owner_only(files: ArtifactFiles) -> None:
    old = os.umask(0)
    try:
        files.write(DATA)
    finally:
        os.umask(old)
    assert mode(files.root) == 0o700
    assert mode(files.root / ID[:2]) == 0o700
    assert mode(files.path(ID)) == 0o600


class TestDamage:
    def write(self, files: ArtifactFiles, content: bytes) -> None:
        files.write(DATA)
        files.path(ID).write_bytes(content)

    @pytest.mark.parametrize("content", [b"", b"short", b"y" * len(DATA), DATA + b"z"], ids=len)
    def test_is_refused_when_read(self, files: ArtifactFiles, content: bytes) -> None:
        self.write(files, content)
        with pytest.raises(StoreDamaged, match="is not what was written"):
            files.read(ID)

    @pytest.mark.parametrize("content", [b"", b"short", b"y" * len(DATA), DATA + b"z"], ids=len)
    def test_is_refused_before_a_stream_gives_its_last_byte(
        self, files: ArtifactFiles, content: bytes
    ) -> None:
        self.write(files, content)
        given_out = 0

        def consume() -> None:
            nonlocal given_out
            with files.open(ID) as stream:
                while part := stream.read(100):
                    given_out += len(part)

        with pytest.raises(StoreDamaged):
            consume()
        assert given_out < max(len(content), 1)

    def test_of_the_length_is_repaired_by_the_next_write(self, files: ArtifactFiles) -> None:
        self.write(files, b"torn")
        assert files.write(DATA) == ID
        assert files.read(ID) == DATA

    def test_by_a_link_in_place_of_a_file_is_refused(
        self, files: ArtifactFiles, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.write_bytes(DATA)
        files.write(b"other")
        files.path(ID).parent.mkdir(exist_ok=True)
        files.path(ID).symlink_to(other)
        for use in (files.read, files.open):
            with pytest.raises(StoreDamaged):
                use(ID)
        assert files.write(DATA) == ID  # takes the link's place
        assert not files.path(ID).is_symlink()
        assert files.read(ID) == other.read_bytes() == DATA

    def test_by_a_link_in_place_of_a_folder_is_refused(
        self, files: ArtifactFiles, tmp_path: Path
    ) -> None:
        files.root.mkdir()
        (tmp_path / "elsewhere").mkdir()
        (files.root / ID[:2]).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(StoreDamaged, match="is a link"):
            files.write(DATA)
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_by_a_pipe_or_folder_does_not_make_readers_wait(self, files: ArtifactFiles) -> None:
        files.write(DATA)
        files.path(ID).unlink()
        os.mkfifo(files.path(ID))
        with pytest.raises(StoreDamaged, match="no regular file"):
            files.read(ID)
        files.path(ID).unlink()
        files.path(ID).mkdir()
        with pytest.raises(StoreDamaged):
            files.open(ID)
        with pytest.raises(StoreDamaged):
            files.write(DATA)
        assert files.size() < 2 * len(DATA)

    def test_by_a_file_in_place_of_the_root_is_refused(self, files: ArtifactFiles) -> None:
        files.root.write_text("")
        with pytest.raises(StoreDamaged):
            files.write(DATA)
        assert list(files.ids()) == []


def failing(error: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


class TestTrouble:
    @pytest.mark.parametrize("call", ["fsync", "replace", "utime", "mkdir"])
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (errno.ENOSPC, StoreFull),
            (errno.EDQUOT, StoreFull),
            (errno.EROFS, StoreReadOnly),
            (errno.EACCES, StoreReadOnly),
            (errno.EIO, StoreError),
        ],
    )
    def test_of_the_disk_has_a_name_and_leaves_nothing_behind(
        self,
        files: ArtifactFiles,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        error: int,
        expected: type[Exception],
    ) -> None:
        if call == "utime":
            files.write(DATA)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing(error))
            with pytest.raises(StoreError, match="cannot write an artifact to") as caught:
                files.write(DATA)
        assert type(caught.value) is expected
        assert not list(files.root.glob("*/*.tmp"))
        assert files.write(DATA) == ID
        assert files.read(ID) == DATA

    def test_in_the_middle_of_a_file_leaves_nothing_behind(
        self, files: ArtifactFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(artifacts, "_sync", failing(errno.ENOSPC))
        with pytest.raises(StoreFull, match="free some space"):
            files.write(DATA)
        assert [path for path in files.root.rglob("*") if path.is_file()] == []

    def test_when_reading_is_a_store_error(
        self, files: ArtifactFiles, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files.write(DATA)
        monkeypatch.setattr(os, "open", failing(errno.EACCES))
        with pytest.raises(StoreError, match="cannot open artifact"):
            files.read(ID)

    def test_limits_are_named(self, files: ArtifactFiles) -> None:
        files.write(DATA)
        small = ArtifactFiles(files.root, max_bytes=100)
        with pytest.raises(EncodingError, match="more than max_bytes=100"):
            small.write(DATA)
        with pytest.raises(StoreError, match=r"more than max_bytes=100; open\(\) reads it"):
            small.read(ID)
        with small.open(ID) as stream:
            assert stream.read() == DATA
        with pytest.raises(ConfigurationError, match="threshold"):
            ArtifactFiles(files.root, threshold=-1)


def test_a_file_is_on_disk_before_its_name_and_its_name_before_the_id(
    files: ArtifactFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        steps.append("sync " + os.path.relpath(target, files.root.parent))
        fsync(descriptor)

    def record_replace(source: Any, target: Any) -> None:
        assert Path(source).read_bytes() == DATA
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    files.write(DATA)
    assert steps[0] == "sync ."  # the root's own entry
    assert steps[1].startswith(f"sync artifacts/{ID[:2]}/{ID}.")
    assert steps[2:] == ["rename", f"sync artifacts/{ID[:2]}", "sync artifacts"]
    steps.clear()
    ArtifactFiles(files.root).write(DATA)  # the first writer may not have come so far
    assert steps == [f"sync artifacts/{ID[:2]}", "sync artifacts"]


def test_many_threads_may_write_the_same_and_other_bytes(files: ArtifactFiles) -> None:
    start = threading.Barrier(8)
    faults: list[BaseException] = []

    def work(number: int) -> None:
        try:
            start.wait()
            for step in range(10):
                files.write(DATA)
                files.write(b"%d %d" % (number, step))
                assert files.read(ID) == DATA
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    found = list(files.ids())
    assert len(found) == 81
    assert found == sorted(found)
    assert files.remove_leftovers(older_than=0) == 0


def test_a_killed_writer_leaves_only_whole_artifacts(files: ArtifactFiles) -> None:
    code = (
        "import os, sys\n"
        "from dagger_dsl.store.artifacts import ArtifactFiles\n"
        "files = ArtifactFiles(sys.argv[1])\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    files.write(os.urandom(200_000))\n"
    )
    root = Path(artifacts.__file__).parents[2]
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(files.root)], stdout=subprocess.PIPE, cwd=root
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            before = sum(1 for _ in files.ids())
            while sum(1 for _ in files.ids()) < before + 3:
                time.sleep(0.001)
            writer.send_signal(signal.SIGKILL)
    found = list(files.ids())
    assert len(found) >= 9
    for artifact_id in found:
        files.read(artifact_id)
    files.remove_leftovers(older_than=0)
    assert {path.name for path in files.root.glob("*/*")} == set(found)


class TestRemoving:
    def test_tells_whether_there_was_one(self, files: ArtifactFiles) -> None:
        files.write(DATA)
        assert files.remove(ID)
        assert not files.remove(ID)
        with pytest.raises(ArtifactNotFound):
            files.read(ID)
        assert files.write(DATA) == ID

    def test_with_an_age_spares_what_was_just_written_again(self, files: ArtifactFiles) -> None:
        files.write(DATA)
        os.utime(files.path(ID), (1, 1))
        files.write(DATA)
        assert not files.remove(ID, unused_for=60)
        os.utime(files.path(ID), (1, 1))
        assert files.remove(ID, unused_for=60)

    def test_of_leftovers_spares_young_ones_and_other_files(self, files: ArtifactFiles) -> None:
        files.write(DATA)
        folder = files.root / ID[:2]
        leftover = folder / f"{ID}.0123456789abcdef.tmp"
        leftover.write_bytes(b"half")
        (folder / "notes.txt").write_text("mine")
        assert files.remove_leftovers() == 0
        os.utime(leftover, (1, 1))
        assert files.remove_leftovers() == 1
        assert {path.name for path in folder.iterdir()} == {ID, "notes.txt"}
        assert list(files.ids()) == [ID]

    def test_of_the_whole_folder_does_not_stop_the_next_write(self, files: ArtifactFiles) -> None:
        files.write(DATA)
        files.remove(ID)
        (files.root / ID[:2]).rmdir()
        files.root.rmdir()
        files.write(DATA)
        assert files.read(ID) == DATA


def test_an_empty_store_has_no_ids_and_no_size(files: ArtifactFiles) -> None:
    assert list(files.ids()) == []
    assert files.size() == 0
    assert not files.root.exists()


def test_a_stream_is_a_binary_file_that_cannot_be_written(files: ArtifactFiles) -> None:
    files.write(DATA)
    with files.open(ID) as stream:
        assert isinstance(stream, io.BufferedIOBase)
        assert stream.readable()
        assert not stream.writable()
        assert not stream.seekable()
