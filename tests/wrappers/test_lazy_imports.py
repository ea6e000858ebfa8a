import subprocess
import sys

import vlmreward.wrappers


def test_a_worker_that_captures_frames_loads_neither_torch_nor_sb3():
    code = (
        "import sys, vlmreward.wrappers; from vlmreward.wrappers import CaptureFrames, ReplaceReward; "
        "print(sorted({'torch', 'stable_baselines3', 'open_clip', 'mujoco'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in vlmreward.wrappers.__all__:
        assert getattr(vlmreward.wrappers, name).__name__ == name
    assert set(vlmreward.wrappers.__all__) == set(vlmreward.wrappers._MODULES)
