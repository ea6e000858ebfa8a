"""Ray's actors give the local engine's shards, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'vlmreward[ray]'")

# In a process of its own: Ray starts servers and threads that outlive a test.
PROGRAM = """
import os, signal, sys, threading, time
from pathlib import Path

import numpy as np

from vlmreward.data import find_format, open_dataset
from vlmreward.data.dataset import Recording
from vlmreward.encoders import make_encoder
from vlmreward.errors import VlmRewardError, WorkerError
from vlmreward.labelling import plan
from vlmreward.labelling.local_engine import LocalEngine
from vlmreward.labelling.ray_engine import ActorSettings, RayEngine

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    writer = find_format("lerobot").create(folder / "d", fps=10, env_id="noise")
    for number in range(60):
        rng = np.random.default_rng(number)
        pictures = [rng.integers(0, 256, (96, 96, 3), np.uint8) for _ in range(101)]
        zeros = np.zeros((101, 1), np.float32)
        writer.add(Recording({"main": pictures}, zeros, zeros[1:], None, False, True, "noise"))
    writer.finish()
    dataset = open_dataset(folder / "d")
    camera = dataset.cameras[0]
    encoder = make_encoder("mini", device="cpu", precision="fp32", runtime="torch")
    shards = plan.make_plan(dataset.episodes).shards
    local = LocalEngine(
        lambda index: dataset.frames(dataset.episodes[index], camera), encoder, lambda k: np.zeros(len(k), bool), 64, 1
    )
    import torch
    torch.set_num_threads(1)
    expected = list(local.run(shards, lambda count: None))
    config = {"name": "mini", "precision": "fp32", "runtime": "torch"}

    def settings(**changes):
        given = dict(dataset=str(dataset.root), camera=camera, encoder=config, encoder_id=encoder.id, device="cpu",
                     batch_size=64, threads=1)
        return ActorSettings(**{**given, **changes})

    def parent(pid):
        return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])

    def actors():
        found = []  # those that have a shard in hand
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes()
                    ours = parent(parent(entry.name)) == os.getpid()  # below the raylet of this very process
                except OSError:
                    continue
                if ours and b"EncodeShards" in words and b".submit" in words:
                    found.append(int(entry.name))
        return found

    victims = []

    def kill(most):
        while len(victims) < most:
            for pid in actors():
                time.sleep(1.0)  # in the middle of its work
                os.kill(pid, signal.SIGKILL)
                victims.append(pid)
                break
            time.sleep(0.05)

    engine = RayEngine(settings(), actors=1, num_cpus=1)
    threading.Thread(target=kill, args=(1,), daemon=True).start()
    told = []
    found = list(engine.run(shards, told.append))
    assert victims, "no actor was killed"
    assert sum(told) == 6000
    assert [frames.number for frames in found] == [0, 1, 2]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one.keys, other.keys)
        np.testing.assert_array_equal(one.embeddings, other.embeddings)
    try:
        list(RayEngine(settings(encoder_id="another"), num_cpus=1).run(shards[:1], told.append))
    except VlmRewardError as e:
        print(f"refused: {e}")
    threading.Thread(target=kill, args=(1000,), daemon=True).start()
    try:
        list(RayEngine(settings(deaths=2), num_cpus=1).run(shards[:1], told.append))
    except WorkerError as e:
        print(f"given up: {e}")
    print("alike")
"""


@pytest.mark.timeout(180)
def test_actors_give_the_local_shards_though_one_is_killed_and_a_deadly_shard_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "program.py", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
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
    assert "given up: 2 workers died over shard 0" in out
    assert "refused: the encoder on a worker is mini-2" in out
