"""Ray's actors give the local engine's shards, also when one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'vlmreward[ray]'")

# In a process of its own: Ray starts servers and threads that outlive a test.
PROGRAM = """
import os, signal, sys
from pathlib import Path

import numpy as np
import torch

from vlmreward.data import find_format, open_dataset
from vlmreward.data.dataset import Recording
from vlmreward.encoders import make_encoder
from vlmreward.errors import VlmRewardError
from vlmreward.labelling import plan, ray_engine
from vlmreward.labelling.local_engine import LocalEngine
from vlmreward.labelling.ray_engine import ActorSettings, EncodeShards, RayEngine

SMALL = 150  # frames of a shard: two batches of 64 and a rest


class DiesOnce(EncodeShards):
    # The first actor that has encoded the second shard is killed before it can hand that over.

    def __init__(self, settings, begun):
        plan.SHARD_FRAMES = SMALL
        super().__init__(settings, begun)
        self._killed = Path(settings.dataset).with_name("killed")

    def __call__(self, batch):
        done = super().__call__(batch)
        if batch["shard"][0] == 1 and not self._killed.exists():
            self._killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return done


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    plan.SHARD_FRAMES, ray_engine.EncodeShards = SMALL, DiesOnce
    writer = find_format("lerobot").create(folder / "d", fps=10, env_id="noise")
    for number in range(4):
        rng = np.random.default_rng(number)
        pictures = [rng.integers(0, 256, (96, 96, 3), np.uint8) for _ in range(101)]
        zeros = np.zeros((101, 1), np.float32)
        writer.add(Recording({"main": pictures}, zeros, zeros[1:], None, False, True, "noise"))
    writer.finish()
    dataset = open_dataset(folder / "d")
    camera = dataset.cameras[0]
    encoder = make_encoder("mini", device="cpu", precision="fp32", runtime="torch")
    laid_out = plan.make_plan(dataset.episodes)
    shards, lengths_key = laid_out.shards, laid_out.lengths_key
    local = LocalEngine(
        lambda index, start: dataset.frames(dataset.episodes[index], camera, start),
        encoder, lambda k: np.zeros(len(k), bool), 64, 1,
    )
    torch.set_num_threads(1)
    expected = list(local.run(shards, lambda count: None))
    config = {"name": "mini", "precision": "fp32", "runtime": "torch"}

    def settings(**changes):
        given = dict(dataset=str(dataset.root), lengths_key=lengths_key, camera=camera, encoder=config,
                     encoder_id=encoder.id, device="cpu", batch_size=64, threads=1)
        return ActorSettings(**{**given, **changes})

    engine = RayEngine(settings(), actors=1, num_cpus=1)
    told = []
    found = list(engine.run(shards, told.append))
    assert (folder / "killed").exists(), "no actor was killed"
    assert sum(told) == 400
    assert [frames.number for frames in found] == [0, 1, 2]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.keys, other.keys)
        np.testing.assert_array_equal(one.embeddings, other.embeddings)
    try:
        list(RayEngine(settings(encoder_id="another"), num_cpus=1).run(shards[:1], told.append))
    except VlmRewardError as e:
        print(f"refused: {e}")
    print("alike")
"""


@pytest.mark.timeout(180)
def test_actors_give_the_local_shards_though_one_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "program.py", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},  # 15: starves beside other work
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=170)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, out
    assert "alike" in out
    assert "refused: the encoder on a worker is mini-" in out


class Begun:
    """Stands for the handle of the actor that counts."""

    def __init__(self, before: int) -> None:
        self.begin, self.before = self, before

    def remote(self, shard: int) -> int:
        return self.before


def test_a_shard_that_kills_worker_after_worker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real deaths are in benchmarks/labelling_kills.py; Ray takes its time before it starts another worker."""
    import ray

    from vlmreward.labelling.ray_engine import ActorSettings, EncodeShards

    monkeypatch.setattr(ray, "get", lambda value: value)
    settings = ActorSettings("nowhere", "", "main", {"name": "mini"}, "mini", "cpu", 64, 1, deaths=2)
    for before, error in ((1, "DatasetError"), (2, "WorkerError")):
        row = EncodeShards(settings, Begun(before))({"shard": np.array([7])})
        assert json.loads(row["error"][0])[0] == error
    assert "2 workers died over shard 7" in row["error"][0]


def test_a_worker_whose_dataset_has_other_episodes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its rows would be joined to the driver's: 5 + 3 frames are as many as 4 + 4."""
    import ray

    from vlmreward.data import open_dataset
    from vlmreward.labelling.plan import make_plan
    from vlmreward.labelling.ray_engine import ActorSettings, EncodeShards

    def write(*lengths: int) -> str:
        for number, length in enumerate(lengths):
            np.save(
                tmp_path / f"{number}.npy", np.random.default_rng(0).integers(0, 256, (length, 32, 32, 3), np.uint8)
            )
        lines = [json.dumps({"video": f"{number}.npy"}) + "\n" for number in range(len(lengths))]
        (tmp_path / "episodes.jsonl").write_text("".join(lines))
        return make_plan(open_dataset(tmp_path).episodes).lengths_key

    monkeypatch.setattr(ray, "get", lambda value: value)
    config = {"name": "mini", "precision": "fp32", "runtime": "torch"}
    driver = write(4, 4)
    for lengths, words in (((5, 3), "give all machines the same copy of the dataset"), ((4, 4), "the encoder on a")):
        write(*lengths)
        settings = ActorSettings(str(tmp_path), driver, "video", config, "another", "cpu", 64, 1)
        row = EncodeShards(settings, Begun(0))({"shard": np.array([0])})
        message = json.loads(row["error"][0])[1]
        assert words in message
        assert "\n" not in message
