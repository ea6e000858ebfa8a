import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from vlmreward.errors import StorageError
from vlmreward.wrappers import frame_ring
from vlmreward.wrappers.frame_ring import FREE, FrameRing, free_bytes

SHAPE = (6, 5, 3)


def test_what_one_map_writes_the_other_reads(tmp_path):
    ring = FrameRing.create(4, 2, SHAPE, [tmp_path])
    worker = FrameRing.attach(ring.spec)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, *SHAPE), dtype=np.uint8)
    worker.frames[:] = frames
    worker.meta[2] = (7, 3, 0.5, 0.1, 0.2, True, False, 1)
    ring.assigned[1, 0] = 3
    np.testing.assert_array_equal(ring.frames, frames)
    assert ring.meta[2]["episode"] == 7
    assert ring.meta[2]["env_reward"] == 0.5
    assert ring.meta[2]["terminated"]
    assert not ring.meta[2]["truncated"]
    assert worker.assigned[1, 0] == 3
    assert worker.assigned[0, 0] == FREE


def test_file_has_no_name_and_memory_outlives_the_seal(tmp_path):
    ring = FrameRing.create(2, 1, SHAPE, [tmp_path])
    assert list(tmp_path.iterdir()) == []
    worker = FrameRing.attach(ring.spec)
    ring.seal()
    worker.frames[1] = 9
    assert (ring.frames[1] == 9).all()
    with pytest.raises(StorageError, match="can't open the frame ring"):
        FrameRing.attach(ring.spec)


@pytest.mark.parametrize("unnamed_files", [True, False])
def test_without_proc_the_name_is_gone_after_the_seal(tmp_path, monkeypatch, unnamed_files):
    """As on macOS; with unnamed files that can't be opened the directory is refused instead."""
    monkeypatch.setattr(frame_ring, "_can_open", lambda path: False)
    if unnamed_files:
        with pytest.raises(StorageError, match="unnamed files can't be opened"):
            FrameRing.create(2, 1, SHAPE, [tmp_path])
    else:
        monkeypatch.delattr(os, "O_TMPFILE")
        ring = FrameRing.create(2, 1, SHAPE, [tmp_path])
        assert [path.name.startswith("vlmreward-ring-") for path in tmp_path.iterdir()] == [True]
        worker = FrameRing.attach(ring.spec)
        ring.seal()
        worker.frames[0] = 3
        assert (ring.frames[0] == 3).all()
    assert list(tmp_path.iterdir()) == []


def test_without_unnamed_files_the_name_is_gone_at_once(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE")
    ring = FrameRing.create(2, 1, SHAPE, [tmp_path])
    assert list(tmp_path.iterdir()) == []
    FrameRing.attach(ring.spec).frames[0] = 5
    assert (ring.frames[0] == 5).all()


def test_second_directory_is_used_when_the_first_is_small(tmp_path, monkeypatch):
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    monkeypatch.setattr(frame_ring, "free_bytes", lambda directory: 1000 if directory == small else 10**9)
    assert FrameRing.create(64, 1, SHAPE, [small, large]).directory == large


def test_no_room_anywhere_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_ring, "free_bytes", lambda directory: 2_000_000)
    monkeypatch.setattr(frame_ring, "default_directories", lambda: [Path("/dev/shm"), tmp_path])
    with pytest.raises(StorageError) as caught:
        FrameRing.create(512, 4, (480, 480, 3))
    text = str(caught.value)
    assert "needs 353.9 MB" in text  # 512 x 480 x 480 x 3 bytes, and control arrays of 0.03 MB
    assert "/dev/shm has 2.0 MB free" in text
    assert "lower encode_batch" in text
    assert "\n" not in text


def test_disk_that_fills_up_after_the_check_is_refused(tmp_path, monkeypatch):
    def full(fd, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left on device"):
        FrameRing.create(2, 1, SHAPE, [tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_free_bytes(tmp_path):
    assert free_bytes(tmp_path) > 0
    assert free_bytes(tmp_path / "missing") == 0


def test_spec_is_small():
    ring = FrameRing.create(512, 8, (64, 64, 3))
    assert len(pickle.dumps(ring.spec)) < 500


def test_kill_9_leaves_nothing_behind_and_python_prints_nothing(tmp_path):
    """Processes with attached workers are killed while they step; neither names nor workers remain."""
    # A script as people write them: no guard against being imported by a worker, everything at the top.
    code = textwrap.dedent("""
        import sys
        import numpy as np
        from vlmreward.rewards.transform import RewardTransform
        from vlmreward.testing.fakes import LinearReward, PixelEnv, ProjectionEncoder
        from vlmreward.wrappers import Scorer, VecCaptureFrames

        class Env(PixelEnv):
            def loaded(self):
                return "torch" in sys.modules

        scorer = Scorer(ProjectionEncoder(), LinearReward(), RewardTransform(), encode_batch=8)
        venv = VecCaptureFrames([Env] * 2, scorer=scorer, subprocess=True, start_method=sys.argv[1])
        venv.reset()
        pids = [p.pid for p in venv.venv.processes]
        print(venv.ring.directory, any(venv.env_method("loaded")), *pids, flush=True)
        while True:
            venv.step(np.array([2, 0]))
    """)
    script = tmp_path / "run.py"
    script.write_text(code)

    def shared():
        return {name for name in os.listdir("/dev/shm") if name.startswith(("vlmreward", "psm_"))}

    before = shared()
    with ExitStack() as stack:
        running = {}
        for start_method in ("fork", "spawn", "forkserver"):
            process = subprocess.Popen(
                [sys.executable, str(script), start_method],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "TMPDIR": str(tmp_path)},
            )
            stack.enter_context(process)  # closes its pipes
            stack.callback(process.kill)
            running[start_method] = process
        for start_method, process in running.items():
            _kill_and_look(start_method, process, tmp_path)
    assert shared() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("vlmreward")] == []


def _kill_and_look(start_method, process, tmp_path):
    directory, torch_loaded, *pids = process.stdout.readline().split()
    assert directory in ("/dev/shm", str(tmp_path))
    assert len(pids) == 2
    if start_method != "fork":
        assert torch_loaded == "False"  # half a gigabyte and seconds for each worker
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(_alive(int(pid)) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(int(pid)) for pid in pids)
    errors = process.stderr.read()
    assert "resource_tracker" not in errors
    assert "leaked" not in errors


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
