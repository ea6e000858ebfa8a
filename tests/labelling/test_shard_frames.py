"""Each frame of a long episode is decoded about once, however many threads take its shards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.data import find_format, open_dataset
from vlmreward.data import video as video_module
from vlmreward.data.dataset import Episode, Frame, Recording, Undecodable
from vlmreward.labelling import plan
from vlmreward.labelling.local_engine import LocalEngine
from vlmreward.labelling.plan import make_plan
from vlmreward.labelling.shard_frames import ShardDecoder
from vlmreward.testing.fakes import ProjectionEncoder

FRAMES, SHARD = 400, 32
SHARDS = -(-FRAMES // SHARD)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_FRAMES", SHARD)


def keys_of(decode: Any, episodes: Any, threads: int) -> np.ndarray:
    """Encode everything; return the content hashes of all frames, in order."""
    engine = LocalEngine(decode, ProjectionEncoder(), lambda keys: np.zeros(len(keys), bool), 16, threads)
    return np.concatenate([shard.keys for shard in engine.run(make_plan(episodes).shards, lambda count: None)])


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_long_episode_is_decoded_once(memory_dataset: Any, threads: int) -> None:
    dataset = memory_dataset((FRAMES,))
    keys_of(dataset.frames, dataset.episodes, threads)
    assert dataset.decoded == FRAMES


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two long episodes in one video file of a LeRobot dataset."""
    create = find_format("lerobot").create
    assert create is not None
    root = tmp_path_factory.mktemp("film") / "set"
    writer = create(root, fps=10, env_id="noise")
    for rows in (70, FRAMES):
        pictures = (np.random.default_rng(t + rows).integers(0, 256, (16, 16, 3), np.uint8) for t in range(rows + 1))
        zeros = np.zeros((rows + 1, 1), np.float32)
        writer.add(Recording({"main": pictures}, zeros, zeros[1:], None, False, True, "noise"))
    writer.finish()
    return root


def test_a_long_film_is_decoded_about_once_and_to_the_same_pictures(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(film)
    whole = keys_of(lambda index, start: dataset.frames(dataset.episodes[index], "main", start), dataset.episodes, 1)
    decoded, lock = [0], threading.Lock()
    decode = video_module._decode

    def counted(*given: Any) -> Iterator[Any]:
        for picture in decode(*given):
            with lock:
                decoded[0] += 1
            yield picture

    monkeypatch.setattr(video_module, "_decode", counted)
    for threads in (2, 4):
        decoded[0] = 0
        keys = keys_of(
            lambda index, start: dataset.frames(dataset.episodes[index], "main", start), dataset.episodes, threads
        )
        np.testing.assert_array_equal(keys, whole)
        assert len(keys) == FRAMES + 70
        # of the pictures before a shard, no more than lie between two key ones
        assert FRAMES + 70 <= decoded[0] <= FRAMES + 70 + 3 * (SHARDS + 4)


def test_after_lost_frames_the_next_shard_is_begun_anew() -> None:
    """What is read must not depend on whether a shard was decoded after the one before, or in another thread."""
    opened: list[int] = []

    def decode(index: int, start: int) -> Iterator[Frame | Undecodable]:
        opened.append(start)
        for number in range(start, 5 * SHARD):
            picture = np.full((4, 4, 3), number, np.uint8)
            picture[0] = 0
            yield Undecodable("lost") if number == SHARD + 3 else picture

    decoder = ShardDecoder(decode, 16)
    for shard in make_plan([Episode(0, "e", 5 * SHARD, 5 * SHARD)]).shards:
        list(decoder.batches(shard, {}))
    assert opened == [0, 2 * SHARD]
