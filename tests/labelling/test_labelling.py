"""Labels are those of each frame by itself, whatever threads, restarts and shards did."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vlmreward.errors import ConfigError
from vlmreward.labelling import plan
from vlmreward.labelling.labelling import Counts
from vlmreward.labelling.local_engine import LocalEngine
from vlmreward.labelling.plan import make_plan
from vlmreward.labelling.scoring import LabelScorer
from vlmreward.labelling.work_folder import LabelRecord, WorkFolder
from vlmreward.testing.fakes import BrightnessReward, LinearReward, ProjectionEncoder

LENGTHS = (20, 90, 1, 33, 47)
KILLS = 20


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(plan, "SHARD_FRAMES", 32)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read(folder: WorkFolder, count: int) -> LabelRecord:
    records = [folder.read_labels(number) for number in range(count)]
    assert all(records)

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(record, name) for record in records])

    return LabelRecord(joined("reward"), joined("valid"), joined("success"), joined("progress"))


def test_labels_are_the_rewards_of_the_frames(memory_dataset, make_job, tmp_path):
    dataset, encoder, model = memory_dataset(LENGTHS), ProjectionEncoder(), LinearReward()
    _, folder, label = make_job(dataset, tmp_path, encoder)
    counts = label()
    pictures = np.stack([dataset.picture(e.index, f) for e in dataset.episodes for f in range(e.frames)])
    expected = encoder.encode_images(pictures) @ model.direction
    found = read(folder, 6)
    np.testing.assert_allclose(found.reward, expected, atol=1e-3)  # stored in float16
    assert found.valid.all()
    assert np.isnan(found.success).all()
    assert (counts.frames, counts.decoded, counts.invalid) == (191, 191, 0)


def test_threads_change_no_byte(memory_dataset, make_job, tmp_path):
    found = []
    for threads in (1, 3):
        _, folder, label = make_job(memory_dataset(LENGTHS), tmp_path / str(threads), threads=threads)
        label()
        found.append(tree(folder.labels))
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_another_goal_needs_no_picture(memory_dataset, make_job, tmp_path):
    make_job(memory_dataset(LENGTHS), tmp_path)[2]()
    again = memory_dataset(LENGTHS)
    encoder = ProjectionEncoder(fail_at=0)
    _, folder, label = make_job(again, tmp_path, encoder, run="other", reward=LinearReward(refuse_above=0.0))
    counts = label()
    assert (again.decoded, counts.decoded, counts.frames) == (0, 0, 191)
    assert counts.reasons == {"too bright": counts.invalid}
    assert 0 < counts.invalid < 191
    assert not read(folder, 6).valid.all()


def test_a_finished_run_is_only_counted(memory_dataset, make_job, tmp_path):
    dataset = memory_dataset(LENGTHS, bad=((1, 50),))
    first = make_job(dataset, tmp_path)[2]()
    decoded = dataset.decoded
    second = make_job(dataset, tmp_path)[2]()
    assert dataset.decoded == decoded
    assert (second.frames, second.invalid, second.reasons, second.decoded) == (191, 1, first.reasons, 0)


def test_frames_that_are_lost_keep_the_others_in_their_places(memory_dataset, make_job, tmp_path):
    bad = ((0, 0), (1, 0), (1, 89), (2, 0), (3, 5))
    whole = make_job(memory_dataset(LENGTHS), tmp_path / "whole", ProjectionEncoder())
    broken = make_job(memory_dataset(LENGTHS, bad=bad), tmp_path / "broken", ProjectionEncoder())
    whole[2]()
    counts = broken[2]()
    expected, found = read(whole[1], 6), read(broken[1], 6)
    starts = np.cumsum((0, *LENGTHS))
    lost = np.zeros(191, bool)
    lost[[starts[episode] + frame for episode, frame in bad]] = True
    np.testing.assert_array_equal(found.valid, ~lost)
    assert np.isnan(found.reward[lost]).all()
    np.testing.assert_allclose(found.reward[~lost], expected.reward[~lost], atol=1e-6)
    assert counts.reasons == {"broken": 5}


def test_pictures_of_one_colour_are_no_labels(memory_dataset, make_job, tmp_path):
    dataset = memory_dataset((5,))
    picture = dataset.picture
    dataset.picture = lambda e, f: np.full((8, 8, 3), 7, np.uint8) if f == 2 else picture(e, f)
    assert make_job(dataset, tmp_path)[2]().reasons == {"the picture is of one colour": 1}


@pytest.mark.parametrize("context", ["initial", "previous"])
def test_shards_hide_no_frame_that_a_reward_needs(memory_dataset, make_job, tmp_path, context):
    needs = ("embeddings", context)
    model = LinearReward(context="pair" if context == "previous" else "frame", needs=needs)
    dataset, encoder = memory_dataset(LENGTHS), ProjectionEncoder()
    _, folder, label = make_job(dataset, tmp_path, encoder, reward=model)
    label()
    expected = []
    for episode in dataset.episodes:
        dots = encoder.encode_images(np.stack(list(dataset.frames(episode.index)))) @ model.direction
        expected.append(dots - (dots[0] if context == "initial" else np.concatenate([dots[:1], dots[:-1]])))
    np.testing.assert_allclose(read(folder, 6).reward, np.concatenate(expected), atol=2e-3)


@pytest.mark.parametrize("context", ["prefix", "episode"])
def test_rewards_of_whole_episodes_see_them_across_shards_and_lost_frames(memory_dataset, make_job, tmp_path, context):
    dataset, encoder = memory_dataset(LENGTHS, bad=((1, 50), (2, 0), (4, 46))), ProjectionEncoder()
    _, folder, label = make_job(dataset, tmp_path, encoder, reward=LinearReward(context=context))
    done = []
    counts = label(advance=done.append)
    assert sum(done) == counts.frames == 191
    expected = []
    for episode in dataset.episodes:
        pictures = np.stack([dataset.picture(episode.index, f) for f in range(episode.frames)])
        dots = encoder.encode_images(pictures) @ LinearReward().direction
        dots[[f for e, f in ((1, 50), (2, 0), (4, 46)) if e == episode.index]] = np.nan
        seen = np.cumsum(np.isfinite(dots))
        means = np.divide(np.nancumsum(dots), seen, out=np.full(len(dots), np.nan), where=seen > 0)
        expected.append(np.where(np.isnan(dots), np.nan, means if context == "prefix" else means[-1]))
    found = read(folder, 6)
    np.testing.assert_allclose(found.reward, np.concatenate(expected), atol=2e-3)
    assert counts.reasons == {"broken": 3}


def test_a_reward_of_what_episodes_have_not_is_refused():
    with pytest.raises(ConfigError, match="looks at reference, which recorded episodes have not"):
        LabelScorer(lambda goal: LinearReward(needs=("embeddings", "reference")), ["goal"])


class Watched(BrightnessReward):
    """Looks at pictures, and remembers how many it was shown at a time."""

    def __init__(self, context):
        self.context, self.shown = context, []

    def compute_reward(self, batch):
        self.shown.append(len(batch))
        return super().compute_reward(batch)


@pytest.mark.parametrize("context", ["frame", "prefix", "episode"])
def test_a_reward_of_pictures_sees_those_of_its_frames_and_none_that_is_lost(
    memory_dataset, make_job, tmp_path, context
):
    dataset = memory_dataset(LENGTHS, bad=((1, 50), (2, 0), (4, 46)))
    reward = Watched(context)
    _, folder, label = make_job(dataset, tmp_path, reward=reward)
    counts = label()
    expected = np.concatenate(
        [[dataset.picture(e.index, f)[..., 0].mean() / 255 for f in range(e.frames)] for e in dataset.episodes]
    )
    lost = np.zeros(len(expected), bool)
    begins = np.cumsum([0, *(e.frames for e in dataset.episodes)])
    lost[[begins[e] + f for e, f in ((1, 50), (2, 0), (4, 46))]] = True
    found = read(folder, 6)
    np.testing.assert_allclose(found.reward[~lost], expected[~lost], atol=1e-6)
    assert np.isnan(found.reward[lost]).all()
    assert counts.reasons == {"broken": 3}
    if context == "frame":
        assert sum(reward.shown) == len(expected) - 3  # each picture once


def test_what_a_reader_or_an_encoder_raises_comes_out_and_threads_end(memory_dataset, make_job, tmp_path):
    before = threading.active_count()
    with pytest.raises(RuntimeError):
        make_job(memory_dataset(LENGTHS), tmp_path / "a", ProjectionEncoder(fail_at=3), threads=2)[2]()
    dataset = memory_dataset(LENGTHS)

    def fail(index: int, start: int):
        raise OSError("no such disk")

    dataset.frames = fail
    with pytest.raises(OSError, match="no such disk"):
        make_job(dataset, tmp_path / "b", threads=2)[2]()
    assert threading.active_count() == before


def test_decoding_waits_for_whoever_takes_the_shards(memory_dataset):
    dataset = memory_dataset((400,))
    engine = LocalEngine(dataset.frames, ProjectionEncoder(), lambda keys: np.zeros(len(keys), bool), 8, 1)
    shards = engine.run(make_plan(dataset.episodes).shards, lambda count: None)
    next(shards)
    time.sleep(0.5)
    assert dataset.decoded <= 3 * 32  # the shard that was taken, and two ahead
    assert sum(1 for _ in shards) == 12


def test_a_sample_that_is_encoded_first_is_used(memory_dataset, make_job, tmp_path):
    dataset = memory_dataset(LENGTHS)
    labeller, _, label = make_job(dataset, tmp_path)
    counts = Counts()
    labeller.encode([2, 5], lambda count: None, counts)
    assert counts.decoded == 32 + 31
    assert label().decoded == 191 - 63


PROGRAM = """
import os, random, signal, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
import conftest
from vlmreward.labelling import plan
plan.SHARD_FRAMES = 32

def label(path):  # in a process that has just been forked, so that a kill seldom hits an import
    child = os.fork()
    if child == 0:
        encoder = conftest.BatchSensitiveEncoder(seconds=0.02)
        dataset = conftest.MemoryDataset({lengths!r}, bad=((1, 50),))
        conftest.build_job(dataset, path, encoder, threads=2)[2]()
        os._exit(0)
    return child

path, rng = Path(sys.argv[1]), random.Random(0)
began = time.monotonic()
assert os.waitpid(label(path / "whole"), 0)[1] == 0
seconds = time.monotonic() - began
killed = 0
while killed < {kills}:
    child = label(path / "killed")
    time.sleep(rng.uniform(0, seconds / 3))
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:  # all done: begin anew
        (path / "killed").rename(path / f"ended-{{killed}}")
    else:
        killed += 1
assert os.waitpid(label(path / "killed"), 0)[1] == 0
"""


def test_killed_at_random_moments_the_labels_are_those_of_an_undisturbed_run(tmp_path):
    code = PROGRAM.format(here=str(Path(__file__).parent), lengths=LENGTHS, kills=KILLS)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    ended = [path for path in tmp_path.iterdir() if path.name != "whole"]
    for path in ended:  # each was killed, most of them several times
        assert tree(path / "labels-run") == tree(tmp_path / "whole" / "labels-run")
        assert tree(path / "frames-layout") == tree(tmp_path / "whole" / "frames-layout")
    assert len(ended) <= KILLS
