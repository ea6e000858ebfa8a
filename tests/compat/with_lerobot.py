"""Run by the Python of an environment with LeRobot: loads or makes a dataset and prints what it saw as JSON."""

# pyright: reportArgumentType=false
# frames and lost frames come through one iterator, and formats may lack a writer: a test knows which it is
import json
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def load(root, sidecar):
    """Give every row as LeRobot's own reader gives it, pictures by their mean."""
    dataset = LeRobotDataset("ours/set", root=root, video_backend="pyav")
    rows = []
    for i in range(len(dataset)):
        item = dataset[i]
        cameras = {k: float(item[k].mean()) * 255 for k in dataset.meta.camera_keys}
        numbers = {k: v.tolist() for k, v in item.items() if hasattr(v, "tolist") and k not in cameras}
        rows.append({**numbers, **cameras, "task": item["task"]})
    ahead = {"reward_vlm": [0.0, 1 / dataset.fps]}
    window = LeRobotDataset("ours/set", root=root, video_backend="pyav", delta_timestamps=ahead)
    windows = [window[i]["reward_vlm"].tolist() for i in range(len(window))]
    found = {"rows": rows, "windows": windows, "features": list(dataset.features)}
    found["mean"] = np.asarray(dataset.meta.stats["reward_vlm"]["mean"]).tolist()
    if sidecar:
        from lerobot.rewards.sarm.rabc import RABCWeights

        weights = RABCWeights(sidecar, chunk_size=2)
        found["deltas"] = [weights._compute_delta(i) for i in range(len(rows))]
    return found


def make(root):
    """Make a dataset with LeRobot's own writer: a video, pictures in rows, two tasks."""
    shape = (64, 64, 3)
    pictures = {"shape": shape, "names": ["height", "width", "channels"]}
    features = {
        "observation.images.front": {"dtype": "video", **pictures},
        "observation.images.wrist": {"dtype": "image", **pictures},
        "observation.state": {"dtype": "float32", "shape": (3,), "names": None},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
    }
    dataset = LeRobotDataset.create("theirs/set", fps=10, features=features, root=root, use_videos=True)
    place = 0
    for episode, rows in enumerate((6, 9)):
        for t in range(rows):
            frame = {
                "observation.images.front": np.full(shape, 20 + 8 * place, np.uint8),
                "observation.images.wrist": np.full(shape, 200 - 8 * place, np.uint8),
                "observation.state": np.full(3, place, np.float32),
                "action": np.full(2, t, np.float32),
                "task": f"task {episode}",
            }
            dataset.add_frame(frame)
            place += 1
        dataset.save_episode()
    dataset.finalize()
    return {}


def main():
    """Print the answer in the last line: LeRobot itself prints, too."""
    what, root, *more = sys.argv[1:]
    import datasets
    import lerobot
    import torch

    found = load(Path(root), more[0] if more else None) if what == "load" else make(Path(root))
    versions = {m.__name__: m.__version__ for m in (lerobot, torch, datasets)} | {"python": sys.version.split()[0]}
    print(json.dumps({**found, "versions": versions}))


if __name__ == "__main__":
    main()
