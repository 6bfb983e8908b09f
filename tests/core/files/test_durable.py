"""Durable files: after a stop at any step a reader sees all of the old state or all of the new one."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from diptych.core.errors import DiptychError, EnvironmentFault, UsageError
from diptych.core.files import durable as files
from diptych.core.manifest import Manifest, file_entry, read_manifest, verify, write_manifest


@dataclass(frozen=True)
class Job:
    """One durable job: how the folder looks before, what is done, and what a reader sees."""

    before: Callable[[Path], None]
    run: Callable[[Path], None]
    see: Callable[[Path], object]
    states: tuple[object, object]  # the old one and the new one


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the platter: a killed process loses nothing that the kernel holds."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def nothing(root: Path) -> None:
    """Leave the folder empty."""


def text_or_none(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def fill(folder: Path, word: str) -> None:
    files.write_text(folder / "one.txt", word * 10)
    with files.writing(folder / "deep" / "two.bin") as file:
        for _ in range(3):
            file.write(word.encode() * 1000)
            file.flush()  # several system calls
    names = ("one.txt", "deep/two.bin")
    entries = tuple(file_entry(folder / name, root=folder) for name in names)
    write_manifest(folder, Manifest("test", outputs=entries, extra={"word": word}))


def stage(root: Path, word: str, *, replace: bool = False) -> None:
    with files.staging_folder(root / "out", replace=replace) as folder:
        fill(folder, word)


def seen_folder(root: Path) -> str | None:
    """Read the folder as a consumer does: it is missing, or its manifest and every digest hold."""
    if not (root / "out").exists():
        return None
    return str(verify(root / "out").extra["word"])


def two_files(root: Path) -> None:
    for name, word in (("a", "new"), ("b", "old")):
        files.write_text(root / name, word)


JOBS = {
    "write a new file in a new folder": Job(
        nothing,
        lambda root: files.write_text(root / "a" / "b" / "file.txt", "new"),
        lambda root: text_or_none(root / "a" / "b" / "file.txt"),
        (None, "new"),
    ),
    "replace a file": Job(
        lambda root: files.write_json(root / "file.json", {"value": "old"}),
        lambda root: files.write_json(root / "file.json", {"value": "new"}),
        lambda root: text_or_none(root / "file.json"),
        ('{\n  "value": "old"\n}\n', '{\n  "value": "new"\n}\n'),
    ),
    "fill a new folder": Job(nothing, lambda root: stage(root, "n"), seen_folder, (None, "n")),
    "replace a folder": Job(
        lambda root: stage(root, "o"), lambda root: stage(root, "n", replace=True), seen_folder, ("o", "n")
    ),
    "rewrite a manifest": Job(
        lambda root: write_manifest(root, Manifest("test", seed=1)),
        lambda root: write_manifest(root, Manifest("test", seed=2)),
        lambda root: read_manifest(root, "test").seed,
        (1, 2),
    ),
    "remove a folder": Job(
        lambda root: stage(root, "o"), lambda root: files.remove(root / "out"), seen_folder, ("o", None)
    ),
    "give a file a second name": Job(
        two_files,
        lambda root: files.link(root / "a", root / "b"),
        lambda root: text_or_none(root / "b"),
        ("old", "new"),
    ),
    "append a line": Job(
        lambda root: files.append_line(root / "log", "first"),
        lambda root: files.append_line(root / "log", "second"),
        lambda root: text_or_none(root / "log"),
        ("first\n", "first\nsecond\n"),
    ),
}


def steps_of(job: Job, root: Path) -> Iterator[tuple[int, Path]]:
    """Run the job undisturbed, then yield the number and a prepared folder for each of its durable steps."""
    (root / "undisturbed").mkdir()
    job.before(root / "undisturbed")
    begun = files.operations()
    job.run(root / "undisturbed")
    assert job.see(root / "undisturbed") == job.states[1]
    for step in range(1, files.operations() - begun + 1):
        (root / str(step)).mkdir()
        job.before(root / str(step))
        yield step, root / str(step)


def killed_at(step: int, work: Callable[[Path], None], root: Path) -> None:
    """Do the work in a forked process that ends at its given durable step."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == files.KILLED
        return
    os.environ.update(DIPTYCH_TESTING="1", DIPTYCH_FAILPOINT=f"exit:{files.operations() + step}")
    try:
        work(root)
    finally:
        os._exit(0)


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob(f"{files.TEMP_PREFIX}*"))


@pytest.mark.parametrize("name", JOBS)
def test_a_kill_at_any_step_leaves_the_old_or_the_new_state(name: str, tmp_path: Path) -> None:
    job, seen = JOBS[name], []
    for step, root in steps_of(job, tmp_path):
        killed_at(step, job.run, root)
        seen.append(job.see(root))
        files.clean_temporaries(root)
        assert leftovers(root) == []
        assert {seen[-1], job.see(root)} <= set(job.states), f"step {step}"
        if job.see(root) == job.states[0]:
            job.run(root)
        assert job.see(root) == job.states[1]
    assert seen[0] == job.states[0]


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("kind", ["enospc", "eio"])
def test_a_failing_disk_at_any_step_is_told_and_leaves_the_old_or_the_new_state(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = JOBS[name]
    monkeypatch.setenv("DIPTYCH_TESTING", "1")
    silent = 0
    for step, root in steps_of(job, tmp_path):
        monkeypatch.setenv("DIPTYCH_FAILPOINT", f"{kind}:{files.operations() + step}")
        try:
            job.run(root)
            silent += 1
        except EnvironmentFault as fault:
            assert str(root) in fault.where
            assert "bytes free" in fault.found
            assert leftovers(root) == []
        monkeypatch.delenv("DIPTYCH_FAILPOINT")
        assert job.see(root) in job.states, f"step {step}"
    assert silent <= 1  # deleting what nobody can see any more


def test_a_swap_cut_in_two_is_finished_by_cleaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system cannot exchange two names, a kill between two renames leaves no folder."""
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    job, seen = JOBS["replace a folder"], []
    for step, root in steps_of(job, tmp_path):
        killed_at(step, job.run, root)
        seen.append(seen_folder(root))
        files.clean_temporaries(root)
        assert seen_folder(root) in job.states
        assert leftovers(root) == []
    assert None in seen  # the moment that cleaning repairs was really met


def test_a_full_disk_inside_the_block_names_path_and_free_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPTYCH_TESTING", "1")
    with pytest.raises(EnvironmentFault) as caught, files.writing(tmp_path / "big.tar") as file:
        monkeypatch.setenv("DIPTYCH_FAILPOINT", f"enospc:{files.operations() + 1}")
        file.write(bytes(2 * files.BUFFER_BYTES))
    assert caught.value.exit_code == 4
    message = str(caught.value)
    assert "big.tar" in message and "bytes free" in message and "No space left" in message
    assert list(tmp_path.iterdir()) == []


def test_a_read_error_inside_the_block_is_not_blamed_on_the_written_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.writing(tmp_path / "copy"):
        (tmp_path / "missing").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_block_leaves_the_old_file(tmp_path: Path) -> None:
    files.write_text(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt), files.writing(tmp_path / "file") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert (tmp_path / "file").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        stage(tmp_path, "n")
    with pytest.raises(UsageError, match="not empty"), files.staging_folder(tmp_path / "late") as folder:
        fill(folder, "n")
        fill(tmp_path / "late", "o")  # while the block ran
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"


def test_an_empty_folder_may_become_the_output_and_only_its_own_leftovers_are_swept(tmp_path: Path) -> None:
    names = ("out", f"{files.TEMP_PREFIX}00000000.out", f"{files.TEMP_PREFIX}00000000.another")
    for name in names:
        (tmp_path / name).mkdir()
    stage(tmp_path, "n")
    assert seen_folder(tmp_path) == "n"
    assert [path.name for path in leftovers(tmp_path)] == [names[2]]


def test_a_torn_line_of_any_length_is_found(tmp_path: Path) -> None:
    """A process killed inside a write left half a record, and the next record was glued to it."""
    log = tmp_path / "log"
    for whole, torn in ((0, 10), (3, 3 * files.TAIL_BYTES), (files.TAIL_BYTES, files.TAIL_BYTES)):
        lines = [str(index) for index in range(whole)]
        log.write_text("".join(f"{line}\n" for line in lines) + "x" * torn)
        files.append_line(log, "new")
        assert log.read_text().splitlines() == [*lines, "new"]


def test_a_linked_output_is_staged_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    stage(tmp_path, "o", replace=True)
    stage(tmp_path, "n", replace=True)
    assert (tmp_path / "out").is_symlink() and seen_folder(tmp_path) == "n"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def test_a_file_is_copied_where_it_cannot_have_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across_disks(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "a").write_text("bytes")
    for _ in range(2):  # a rename onto another name of the same file does nothing, and left a file behind
        files.link(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").samefile(tmp_path / "a")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    monkeypatch.setattr(os, "link", across_disks)
    files.link(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "bytes" and not (tmp_path / "c").samefile(tmp_path / "a")
    assert leftovers(tmp_path) == []


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert "1.0" in (tmp_path / "a.json").read_text()


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    """Temporary files of the standard library are private (0600); published ones must not be."""
    old = os.umask(0o022)
    try:
        files.write_text(tmp_path / "a", "")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_sha256_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert files.sha256_file(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_failpoints_sleep_outside_tests(tmp_path: Path) -> None:
    code = f"from diptych.core.files.durable import write_text; write_text({str(tmp_path / 'a')!r}, 'x')"
    for testing, expected in (("0", 0), ("1", files.KILLED)):
        environment = {**os.environ, "DIPTYCH_FAILPOINT": "exit:1", "DIPTYCH_TESTING": testing}
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        assert done.returncode == expected


def test_a_file_where_a_folder_is_wanted_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DiptychError, match="cannot create the folder"):
        files.write_text(tmp_path / "out" / "a", "x")
