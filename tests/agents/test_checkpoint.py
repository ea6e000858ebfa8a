from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from vlmreward.agents import checkpoint
from vlmreward.agents.checkpoint import REPLAY, CheckpointStore, describe_file
from vlmreward.errors import CheckpointError, StorageError


def save(store: CheckpointStore, step: int, best: bool = False, meta: dict[str, Any] | None = None, **kw: Any) -> Path:
    return store.save(step, {"t": torch.full((4,), float(step))}, meta or {"best": ""}, best=best, **kw)


def chunk(store: CheckpointStore, name: str) -> Any:
    path = store.folder / REPLAY / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    return describe_file(path, f"{REPLAY}/{name}")


def test_last_checkpoint_comes_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 5)
    save(store, 10, meta={"best": "", "x": 1})
    state, meta, shared = store.load(store.find())
    assert torch.equal(state["t"], torch.full((4,), 10.0))
    assert (meta["x"], shared) == (1, [])
    assert (tmp_path / "latest").read_text() == "step_000000000010"


def test_two_newest_stay_and_only_their_chunks(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, shared=[a := chunk(store, "a")])
    save(store, 2, shared=[a, b := chunk(store, "b")])
    chunk(store, "d")  # of a checkpoint that a kill prevented
    save(store, 3, shared=[b, c := chunk(store, "c")])
    assert store.names() == ["step_000000000002", "step_000000000003"]
    assert sorted(p.name for p in (tmp_path / REPLAY).iterdir()) == ["a", "b", "c"]
    save(store, 4, shared=[c])
    assert sorted(p.name for p in (tmp_path / REPLAY).iterdir()) == ["b", "c"]


def test_best_checkpoint_outlives_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, best=True, meta={"best": "best_000000000001"})
    for step in (2, 3, 4):
        save(store, step, meta={"best": "best_000000000001"})
    assert store.find("best").name == "best_000000000001"
    save(store, 5, best=True, meta={"best": "best_000000000005"})
    assert store.find("best").name == "best_000000000005"
    # a kill now goes on from step 4, whose best is still there
    assert (tmp_path / "best_000000000001").is_dir()
    for step in (6, 7):
        save(store, step, meta={"best": "best_000000000005"})
    assert not (tmp_path / "best_000000000001").exists()


def test_resuming_forgets_a_best_of_the_lost_future(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, best=True, meta={"best": "best_000000000001"})
    save(store, 2, meta={"best": "best_000000000001"})
    save(store, 3, best=True, meta={"best": "best_000000000003"})
    (tmp_path / ".step_000000000004.99").mkdir()
    (tmp_path / ".latest.99.new").write_text("step_")
    store.forget_after("best_000000000001")
    assert not list(tmp_path.glob(".*"))
    assert store.find("best").name == "best_000000000001"
    store.forget_after("")
    with pytest.raises(CheckpointError, match="has no best checkpoint"):
        store.find("best")


def test_best_of_an_abandoned_future_is_written_again(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    save(store, 100)
    save(store, 200, best=True)  # then the run is killed, and resumed from 100, which knew no best
    store.forget_after("")
    with pytest.raises(CheckpointError, match="no best checkpoint"):
        store.find("best")
    again = save(store, 200, best=True)
    assert store.find("best") == again


def test_find_says_what_there_is(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint: give a run folder"):
        store.find()
    save(store, 64)
    assert store.find("64") == store.find("step_000000000064") == store.find("last")
    with pytest.raises(CheckpointError, match="has no checkpoint '7': it has last, best and 64"):
        store.find("7")


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "arrays.npz", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_damage_is_noticed_and_the_older_one_is_named(tmp_path: Path, name: str, harm: str) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    file = save(store, 2) / name
    content = file.read_bytes()
    if harm == "flip":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    elif harm == "cut":
        file.write_bytes(content[:-1])
    else:
        file.unlink()
    if harm == "delete" and name == "manifest.json":
        assert store.find().name == "step_000000000001"  # without a manifest it never was a checkpoint
        return
    with pytest.raises(CheckpointError, match=r"damaged.*delete that folder to go on from step_000000000001") as caught:
        store.load(store.find())
    assert "\n" not in str(caught.value)


def test_damaged_chunk_is_noticed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, shared=[chunk(store, "a")])
    (tmp_path / REPLAY / "a").write_text("b")
    store.load(store.find(), with_shared=False)
    with pytest.raises(CheckpointError, match=r"step_000000000001 is damaged .replay/a has changed"):
        store.load(store.find())


def test_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = save(store, 1) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="has format 99, this version reads 1"):
        store.load(store.find())


STEPS = ("write_tree", "sync", "rename", "replace_text", "prune")


@pytest.mark.parametrize("step", STEPS)
def test_interrupted_commit_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Stand for a kill after each part of a commit: nothing after it runs, not even cleaning up."""
    store = CheckpointStore(tmp_path)
    save(store, 1)

    class Kill(BaseException):
        pass

    def kill(*args: Any, **kwargs: Any) -> None:
        raise Kill

    if step == "rename":
        monkeypatch.setattr(Path, "rename", kill)
    elif step == "prune":
        monkeypatch.setattr(CheckpointStore, "prune", kill)
    else:
        monkeypatch.setattr(checkpoint, step, kill)
    with pytest.raises(Kill):
        save(store, 2)
    monkeypatch.undo()
    after = CheckpointStore(tmp_path)
    state, _, _ = after.load(after.find())
    assert state["t"][0] == (2.0 if step in ("replace_text", "prune") else 1.0)
    save(after, 3)
    assert torch.equal(after.load(after.find())[0]["t"], torch.full((4,), 3.0))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)

    def full(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(StorageError, match=r"can't be written .*the previous checkpoint is intact"):
        save(store, 2)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_000000000001"]
    store.load(store.find())


def test_same_step_again_is_left_as_it_is(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    before = (save(store, 1) / "manifest.json").stat().st_mtime_ns
    assert (save(store, 1) / "manifest.json").stat().st_mtime_ns == before


def test_damaged_older_checkpoint_does_not_stop_training(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, shared=[a := chunk(store, "a")])
    (save(store, 2, shared=[a]) / "manifest.json").write_text("{")
    save(store, 3, shared=[chunk(store, "b")])
    assert (tmp_path / REPLAY / "a").exists()  # nobody knows what the damaged one needs
    store.load(store.find())
