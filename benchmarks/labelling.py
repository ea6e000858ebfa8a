"""How fast is a dataset labelled, against encoding alone, and does memory or cost grow with its length?

    python benchmarks/labelling.py           # speed with mini and ViT-B-32, memory, a second goal; 10 minutes
    python benchmarks/labelling.py --frames 2000 --long 20000 --vit 0          # smaller

Datasets are LeRobot v3.0 sets of moving pictures, written for the time by our own writer: h264,
episodes of 200 frames. Claims:

- With ViT-B-32 (random weights, for speed only) labelling runs at 90 % of the rate of encoding the same frames, decoded
  before, with the same encoder: wall time, interleaved rounds.
- With `mini`, which is as fast as decoding, at 90 % of 1 / (decode + resize and encode), each measured alone, in
  processor time of the process.
- Peak resident memory of a process that labels ten times as many frames is within 10 %, and the cost of a frame flat.
- Another goal on a labelled dataset is 100 times as fast as the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads

import numpy as np
from rich.console import Console
from rich.table import Table

from vlmreward.cli.run_folder import describe_machine
from vlmreward.data import find_format, open_dataset
from vlmreward.data.dataset import Recording
from vlmreward.encoders import make_encoder
from vlmreward.encoders.cached import open_cached
from vlmreward.labelling.labelling import Counts, Labeller
from vlmreward.labelling.local_engine import LocalEngine
from vlmreward.labelling.plan import make_plan
from vlmreward.labelling.scoring import LabelScorer
from vlmreward.labelling.work_folder import WorkFolder
from vlmreward.rewards import make_reward
from vlmreward.testing.fakes import LinearReward

EPISODE = 200
SHARE_BAR, MEMORY_BAR, AGAIN_BAR = 0.9, 0.1, 100.0
BATCH = 64
GOAL = "pole vertically upright on top of the cart"


def make_dataset(root: Path, frames: int, side: int) -> Path:
    """Write a dataset of moving pictures, unless it is there."""
    if (root / "meta" / "info.json").is_file():
        return root
    writer = find_format("lerobot").create(root, fps=20, env_id="moving squares")  # type: ignore[misc]
    rows = np.linspace(0, 1, side)[:, None, None]
    for number in range(frames // EPISODE):
        rng = np.random.default_rng(number)
        ground = (255 * rows * rng.random(3)).astype(np.uint8) * np.ones((1, side, 1), np.uint8)
        places = rng.integers(0, side - side // 8, (2, 2))

        def pictures(ground: Any = ground, places: Any = places, rng: Any = rng) -> Iterator[np.ndarray]:
            for at in range(EPISODE + 1):
                picture = ground.copy()
                y, x = places[0] + (places[1] - places[0]) * at // EPISODE
                picture[y : y + side // 8, x : x + side // 8] = rng.integers(0, 256, 3)
                yield picture

        writer.add(
            Recording(
                {"front": pictures()},
                np.zeros((EPISODE + 1, 4), np.float32),
                np.zeros((EPISODE, 2), np.float32),
                None,
                False,
                True,
                "a square at its place",
            )
        )
    writer.finish()
    return root


class Job:
    """A labelling job in a new folder.

    Args:
        dataset: Path.
        encoder: Of its frames.
        folder: For journal and embeddings.
    """

    def __init__(self, dataset: Path, encoder: Any, folder: Path) -> None:
        read = open_dataset(dataset)
        camera = read.cameras[0]
        self.encoder, self.episodes = encoder, read.episodes
        self.decode = lambda index, start: read.frames(read.episodes[index], camera, start)
        self.store = open_cached(encoder, folder / "embeddings").store
        self.plan = make_plan(read.episodes)
        self.folder = folder
        self.marks: list[tuple[float, int]] = []

    def label(self, run: str, model: Any) -> float:
        """Label the whole dataset; return the seconds."""
        engine = LocalEngine(self.decode, self.encoder, lambda keys: self.store.find(keys) >= 0, BATCH, 1)
        labeller = Labeller(self.plan, WorkFolder(self.folder, "layout", run), self.store, engine)
        scorer = LabelScorer(lambda goal: model, [GOAL] * len(self.episodes))
        began = time.perf_counter()
        done = 0
        self.marks = [(began, 0)]

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.marks.append((time.perf_counter(), done))

        labeller.run(scorer, advance, Counts())
        return time.perf_counter() - began

    def frames(self) -> list[np.ndarray]:
        """Return all frames, decoded, in the job's batches."""
        batches = []
        for episode in self.episodes:
            pictures = np.stack(list(self.decode(episode.index, 0)))  # type: ignore[misc]
            batches += [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]
        return batches


def measure_vit(root: Path, frames: int, rounds: int) -> dict[str, Any]:
    """Labelling against encoding alone, wall time, with a large encoder."""
    dataset = make_dataset(root / f"side224-{frames}", frames, 224)
    encoder = make_encoder("open_clip", device="cpu", model="ViT-B-32", random_weights=True)
    with tempfile.TemporaryDirectory() as scratch:
        batches = Job(dataset, encoder, Path(scratch) / "look").frames()
        whole, alone = [], []
        for number in range(rounds):
            job = Job(dataset, encoder, Path(scratch) / str(number))
            began = time.perf_counter()
            for batch in batches:
                encoder.encode_images(batch)
            alone.append(time.perf_counter() - began)
            whole.append(job.label("run", LinearReward(encoder.dim)))
    shares = [a / w for a, w in zip(alone, whole, strict=True)]
    return {
        "encoder": encoder.id,
        "precision": encoder.precision,
        "runtime": encoder.runtime,
        "frames": frames,
        "side": 224,
        "frames_per_second": round(frames / statistics.median(whole), 1),
        "encode_only_per_second": round(frames / statistics.median(alone), 1),
        "share": {"median": round(statistics.median(shares), 3), "rounds": [round(s, 3) for s in shares]},
    }


def measure_mini(root: Path, frames: int, rounds: int) -> dict[str, Any]:
    """Labelling against decoding and encoding, each alone, processor time; and a second goal."""
    dataset = make_dataset(root / f"side96-{frames}", frames, 96)
    encoder = make_encoder("mini", device="cpu")
    shares, firsts, seconds = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            job = Job(dataset, encoder, Path(scratch) / str(number))
            began = time.process_time()
            batches = job.frames()
            decoded = time.process_time()
            for batch in batches:
                encoder.encode_images(batch)
            parts = (decoded - began, time.process_time() - decoded)
            del batches
            began = time.process_time()
            firsts.append(job.label("first", make_reward("clip", encoder, goal=GOAL)))
            shares.append(sum(parts) / (time.process_time() - began))
            seconds.append(job.label("second", make_reward("clip", encoder, goal="cart at the left end of the track")))
    return {
        "encoder": encoder.id,
        "precision": encoder.precision,
        "runtime": encoder.runtime,
        "frames": frames,
        "side": 96,
        "frames_per_second": round(frames / statistics.median(firsts), 1),
        "share": {"median": round(statistics.median(shares), 3), "rounds": [round(s, 3) for s in shares]},
        "second_goal": {
            "times_as_fast": round(statistics.median(f / s for f, s in zip(firsts, seconds, strict=True)), 1),
            "frames_per_second": round(frames / statistics.median(seconds)),
        },
    }


def label_and_report(dataset: Path) -> None:
    """Label a dataset in this process and print what it took; for ``measure_memory``."""
    encoder = make_encoder("mini", device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(dataset, encoder, Path(scratch))
        seconds = job.label("run", make_reward("clip", encoder, goal=GOAL))
    times, done = np.array(job.marks).T
    ends = np.linspace(0, done[-1], 21)
    taken = np.diff(np.interp(ends, done, times)) / (done[-1] / 20)
    print(
        json.dumps(
            {
                "peak_mb": round(peak_memory_mb(), 1),
                "seconds": round(seconds, 2),
                "ms_per_frame": [round(1e3 * s, 4) for s in taken.tolist()],
            }
        )
    )


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB.

    Not getrusage's: a new process begins with the peak of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_memory(root: Path, frames: int) -> dict[str, Any]:
    """Peak memory and cost of a frame for a dataset, and for one ten times as long."""
    out = {}
    for count in (frames // 10, frames):
        dataset = make_dataset(root / f"side96-{count}", count, 96)
        told = subprocess.run(
            [sys.executable, __file__, "--child", str(dataset)], check=True, capture_output=True, text=True
        )
        out[str(count)] = json.loads(told.stdout.splitlines()[-1])
    return out


def draw(memory: dict[str, Any], path: Path) -> None:
    """Draw the cost of a frame along each dataset."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for count, told in memory.items():
        costs = told["ms_per_frame"]
        ends = np.linspace(0, int(count), len(costs) + 1)
        axis.stairs(costs, ends, label=f"{int(count):,} frames, peak {told['peak_mb']:,.0f} MB", baseline=None)
    axis.set(xlabel="frames labelled", ylabel="ms a frame", ylim=(0, None), xlim=(0, None))
    axis.legend(loc="lower right")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> int:
    """Measure, print tables and write the JSON; 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6000, help="of the comparison with mini")
    parser.add_argument("--vit", type=int, default=1000, help="frames of the comparison with ViT-B-32; 0: leave it out")
    parser.add_argument("--long", type=int, default=200_000, help="frames of the long dataset; 0: leave it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where datasets are made and kept; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "labelling.json")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parents[1] / "docs/images/labelling_cost.png")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        label_and_report(options.child)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        root = options.folder or Path(scratch)
        found: dict[str, Any] = {"mini": measure_mini(root, options.frames, options.rounds)}
        if options.vit:
            found["vit_b_32"] = measure_vit(root, options.vit, options.rounds)
        if options.long:
            found["memory"] = measure_memory(root, options.long)
            draw(found["memory"], options.picture)
    bad = report(found)
    options.out.write_text(json.dumps({**found, **describe_machine()}, indent=2) + "\n")
    return int(bad)


def report(found: dict[str, Any]) -> bool:
    """Print the figures; return whether one misses its bar."""
    table = Table("claim", "figure", "bar", "")
    rows = [
        ("mini: share of 1 / (decode + encode)", found["mini"]["share"]["median"], SHARE_BAR),
        ("mini: a second goal, times as fast", found["mini"]["second_goal"]["times_as_fast"], AGAIN_BAR),
    ]
    if "vit_b_32" in found:
        rows.append(("ViT-B-32: share of encoding alone", found["vit_b_32"]["share"]["median"], SHARE_BAR))
    checks = [(what, value, bar, value >= bar) for what, value, bar in rows]
    if "memory" in found:
        short, long = found["memory"].values()
        growth = long["peak_mb"] / short["peak_mb"] - 1
        checks.append(("peak memory, ten times the frames: growth", round(growth, 3), MEMORY_BAR, growth <= MEMORY_BAR))
        half = len(long["ms_per_frame"]) // 2
        first, last = (statistics.median(long["ms_per_frame"][s]) for s in (slice(1, half), slice(half, None)))
        checks.append(("cost of a frame, second half to first", round(last / first, 3), 1.1, last / first <= 1.1))
    for what, value, bar, holds in checks:
        table.add_row(what, str(value), str(bar), "holds" if holds else "DOES NOT HOLD")
    Console().print(table)
    return not all(holds for *_, holds in checks)


if __name__ == "__main__":
    sys.exit(main())
