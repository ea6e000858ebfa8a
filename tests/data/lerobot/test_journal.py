"""Processes that die at every step of writing labels, or of taking them away."""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlmreward.data.lerobot import FORMAT
from vlmreward.data.lerobot.journal import JOURNAL, Transaction, locked, recover
from vlmreward.errors import DatasetError

# All that changes a file. To bring one to the disk is none of them: a process that dies takes nothing out of the
# system's own memory, so a death at a flush leaves what a death at the next of these steps leaves.
STEPS = [(os, "replace"), (Path, "unlink"), (Path, "write_bytes"), (pq.ParquetWriter, "write_table")]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def dies_at(step, action):
    """Run ``action`` in a process of its own that dies at its ``step``-th step; returns its exit code, 9 if it did."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            count = 0

            def stepping(function):
                def counted(*args, **kwargs):
                    nonlocal count
                    count += 1
                    if count > step:
                        os._exit(9)  # nothing is closed, flushed or tidied up
                    return function(*args, **kwargs)

                return counted

            for owner, name in STEPS:
                setattr(owner, name, stepping(getattr(owner, name)))
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same(one, other):
    if one.keys() != other.keys():
        return False
    for name, value in one.items():
        if isinstance(value, tuple):
            if not value[0].equals(other[name][0], check_metadata=True) or value[1:] != other[name][1:]:
                return False
        elif value != other[name]:
            return False
    return True


def write(root, labels, **settings):
    dataset = FORMAT.open(root)
    FORMAT.label(dataset, "reward_vlm", **settings).write(labels(dataset.episodes))


def run_all_steps(start, tmp_path, action, check):
    """Kill ``action`` at each of its steps, each time on a fresh copy; returns the number of steps."""
    for step in range(500):
        root = tmp_path / f"copy{step}"
        shutil.copytree(start, root)
        code = dies_at(step, lambda root=root: action(root))
        check(root, code)
        shutil.rmtree(root)
        if code == 0:
            return step
        assert code == 9
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("images", [False, True])
def test_writing_again_after_any_death_gives_the_labels(build_v30, labels, content, tmp_path, images):
    start = build_v30(images=images, video=not images)
    before = content(start)
    done = tmp_path / "done"
    shutil.copytree(start, done)
    write(done, labels)
    whole = content(done)

    def without_origins(found):
        return {n: v for n, v in found.items() if n != "meta/vlmreward_origins.json"}  # times of change differ

    def check(root, code):
        dataset = FORMAT.open(root)  # opens whatever state it is in
        list(dataset.frames(dataset.episodes[0], dataset.cameras[0]))
        interrupted = (root / JOURNAL).exists()
        assert interrupted == any("interrupted" in p.what for p in dataset.problems())
        if interrupted or same(content(root), before):
            write(root, labels)
        assert same(without_origins(content(root)), without_origins(whole))
        assert not [p for p in root.rglob(".*") if p.is_file()]
        assert FORMAT.open(root).problems() == []

    assert run_all_steps(start, tmp_path, lambda root: write(root, labels), check) > 15


def test_undo_after_any_death_of_writing_gives_back_what_was_there(build_v30, labels, content, tmp_path):
    start = build_v30()
    before = content(start)

    def check(root, code):
        if (root / JOURNAL).exists() or not same(content(root), before):
            FORMAT.label(FORMAT.open(root), "reward_vlm", overwrite=True).undo()
        assert same(content(root), before)

    run_all_steps(start, tmp_path, lambda root: write(root, labels), check)


def test_undo_again_after_any_death_of_undo(build_v30, labels, content, tmp_path):
    start = build_v30()
    before = content(start)
    write(start, labels)

    def undo(root):
        FORMAT.label(FORMAT.open(root), "reward_vlm", overwrite=True).undo()

    def check(root, code):
        if not same(content(root), before):
            undo(root)
        assert same(content(root), before)

    run_all_steps(start, tmp_path, undo, check)


def test_another_run_after_a_death_is_never_taken_for_the_first(build_v30, labels, tmp_path):
    start = build_v30()

    def check(root, code):
        other = lambda episodes: labels(episodes, run="cd" * 8, offset=0.5)  # noqa: E731
        write(root, other, overwrite=True)
        dataset = FORMAT.open(root)
        assert dataset.column(dataset.episodes[2], "reward_vlm")[0] == 19.5

    run_all_steps(start, tmp_path, lambda root: write(root, labels), check)


def test_overwriting_that_dies_leaves_old_or_new_labels(build_v30, labels, tmp_path):
    start = build_v30()
    write(start, labels)

    def again(root):
        write(root, lambda episodes: labels(episodes, run="cd" * 8, offset=0.5), overwrite=True)

    def check(root, code):
        with locked(root):
            recover(root)
        dataset = FORMAT.open(root)
        firsts = {float(dataset.column(e, "reward_vlm")[0] % 1) for e in dataset.episodes}
        assert firsts in ({0.0}, {0.5})
        assert dataset.problems() == []

    run_all_steps(start, tmp_path, again, check)


def test_a_file_that_was_changed_while_half_written_is_not_overwritten(build_v30, labels, tmp_path):
    root = build_v30()
    names = ["data/chunk-000/file-000.parquet", "meta/info.json"]
    work = Transaction(root, "write x", names)
    for name in names:
        work.staged(name).write_bytes(b"new")
        work.keep(name)

    def commit():
        work.commit()

    dies_at(3, commit)  # at the first file's turn
    staged = list(root.rglob(".*vlmreward-new"))
    assert staged
    staged[0].write_bytes(b"somebody else's")
    with locked(root), pytest.raises(DatasetError, match="was changed while labels were half written"):
        recover(root)


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "[]",
        '{"state": "committing"}',
        '{"state": "staging", "names": ["../../etc/x"], "files": []}',
        '{"state": "committing", "names": [], "files": [{"name": "../x"}]}',
        '{"state": "committing", "names": [], "files": [{"name": "meta/stats.json", "size": 1, "hash": "0"}]}',
        '{"state": "committing", "names": [], "files": [3]}',
        '{"state": "other", "names": [], "files": []}',
        '{"state": "staging", "names": [3], "files": []}',
    ],
)
def test_damaged_or_malicious_journals_are_refused_and_change_nothing(build_v30, labels, tree, journal):
    root = build_v30()
    (root / JOURNAL).write_text(journal)
    before = tree(root)
    with pytest.raises(DatasetError) as caught:
        write(root, labels)
    assert "\n" not in str(caught.value)
    assert tree(root) == before
