"""Is a labelling run that is killed twenty times as good as one that nobody disturbs?

    python benchmarks/labelling_kills.py                              # local engine and Ray; half an hour on two cores
    python benchmarks/labelling_kills.py --engine local --frames 60000

The run is `vlmreward label` with `mini` over a LeRobot dataset that our own writer makes. It is disturbed by SIGKILL at
random moments, which a seed decides:

- local: the process itself, again and again, started anew each time until it is through.
- ray workers: the processes of a running job's encoder actors. Nobody starts anything anew: the job must get through.
- ray driver: the process that was started, and with it what Ray made of it; started anew as with the local engine.

A kill counts where it hits work: the process has decoded a frame. Those that hit one which is still starting come on
top. Three of four moments are counted from when there is work, the others from the last kill.

The claim: every file of the dataset has the bytes that an undisturbed run of the local engine leaves, the columns of
labels in it. Beside it stands what the kills cost: how many frames were decoded in all, counted in the reader, a byte
of a file of each process for each, so that what a killed one did counts as well.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out

import pyarrow.parquet as pq
from labelling import GOAL, make_dataset
from rich.console import Console
from rich.table import Table

from vlmreward.cli.run_folder import describe_machine
from vlmreward.data import open_dataset

SIDE = 96
COLUMN = "reward_vlm"
DRIVER_KILLS = 4
LIMIT_S = 3600  # of one run with all its kills
FROM_START = 0.25  # share of moments that are not counted from when there is work

COUNTER = '''
import importlib.abc, importlib.util, os, sys


class CountDecoded(importlib.abc.MetaPathFinder):
    """Lets the reader write a byte for each frame that it gives."""

    def find_spec(self, name, path=None, target=None):
        if name != "vlmreward.data.lerobot.reader":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            frames = module.LeRobotReader.frames

            def counted(reader, episode, camera, start=0):
                path = os.path.join(os.environ["DECODED"], str(os.getpid()))
                file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                try:
                    for frame in frames(reader, episode, camera, start):
                        os.write(file, b".")
                        yield frame
                finally:
                    os.close(file)

            module.LeRobotReader.frames = counted

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, CountDecoded())
'''
"""``sitecustomize.py`` of the processes that label, those of Ray as well: every Python process imports it first."""


@dataclass
class Run:
    """One labelling run in a folder of its own, from a fresh copy of the dataset to the written column.

    Attributes:
        folder: Its own.
        more: Settings besides dataset and goal.
    """

    folder: Path
    more: tuple[str, ...] = ()

    @property
    def dataset(self) -> Path:
        """The copy, whose files keep their times, and so their fingerprint."""
        return self.folder / "dataset"

    def prepare(self, dataset: Path) -> None:
        """Copy the dataset, and place the counter."""
        shutil.copytree(dataset, self.dataset)
        (self.folder / "counter").mkdir()
        (self.folder / "decoded").mkdir()
        (self.folder / "counter" / "sitecustomize.py").write_text(COUNTER)

    def start(self) -> subprocess.Popen[str]:
        """Start the command, or start it again."""
        before = os.environ.get("PYTHONPATH")
        paths = os.pathsep.join([str(self.folder / "counter"), *([before] if before else [])])
        words = (f"dataset={self.dataset}", f"goal={GOAL}", "force=true", f"run_dir={self.folder / 'job'}")
        with (self.folder / "log.txt").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "vlmreward.cli", "label", *words, f"name={COLUMN}", *self.more],
                env={**os.environ, "PYTHONPATH": paths, "DECODED": str(self.folder / "decoded")},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def decoded(self) -> int:
        """Return how many frames were decoded so far."""
        return sum(path.stat().st_size for path in (self.folder / "decoded").iterdir())

    def has_decoded(self, pids: Iterable[int]) -> list[int]:
        """Return which processes have decoded a frame."""
        return [pid for pid in pids if (self.folder / "decoded" / str(pid)).exists()]

    def is_done(self) -> bool:
        """Return whether every shard is labelled, and only writing is left."""
        return len(list((self.folder / "job").glob("labels-*/*.npz"))) == self.shards()

    def shards(self) -> int:
        """Return how many shards the dataset has."""
        from vlmreward.labelling.plan import make_plan

        return len(make_plan(open_dataset(self.dataset).episodes).shards)

    def files(self) -> dict[str, str]:
        """Return a hash of every file of the dataset."""
        found = (path for path in sorted(self.dataset.rglob("*")) if path.is_file())
        return {str(p.relative_to(self.dataset)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    def columns(self) -> dict[str, str]:
        """Return a hash of the bytes of each column of labels."""
        hashes: dict[str, Any] = {}
        for path in sorted((self.dataset / "data").rglob("*.parquet")):
            table = pq.read_table(path)
            for name in (name for name in table.column_names if name.startswith(COLUMN)):
                digest = hashes.setdefault(name, hashlib.sha256())
                for chunk in table[name].chunks:
                    digest.update(chunk.to_numpy(zero_copy_only=False).tobytes())
        return {name: digest.hexdigest() for name, digest in hashes.items()}


def family(pid: int) -> dict[int, str]:
    """Return the processes below one, and what they call themselves."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            number = int(entry.name)
            parents[number] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            names[number] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    below, found = [pid], {}
    while below:
        parent = below.pop()
        children = [child for child, of in parents.items() if of == parent]
        found.update({child: names[child] for child in children})
        below += children
    return found


def alive(pids: Iterator[int]) -> list[int]:
    """Return which processes are there and no zombies."""
    there = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                there.append(pid)
    return there


def wait_for_moment(
    process: subprocess.Popen[str],
    deadline: float,
    rng: random.Random,
    longest: float | None,
    at_work: Callable[[], list[int]],
) -> None:
    """Wait for a random moment, or until the process ends of itself.

    Args:
        process: That was started.
        deadline: Nothing is waited for after that.
        rng: Decides.
        longest: The moment is at most so many seconds away: from now, or, three times of four, from when a process is
            at work. None waits for the end.
        at_work: Tells which processes are.
    """
    if longest is not None and rng.random() > FROM_START:
        while not at_work() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    left = deadline - time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, left if longest is None else min(left, rng.uniform(0, longest))))


def kill_and_restart(run: Run, kills: int, longest: float, rng: random.Random) -> dict[str, Any]:
    """Kill the process at random moments and start it again, and let it end after the last kill.

    Args:
        run: Prepared.
        kills: How often, at work.
        longest: Seconds, see :func:`wait_for_moment`.
        rng: Decides the moments.
    """
    killed: Counter[str] = Counter()
    orphans = 0
    deadline = time.monotonic() + LIMIT_S
    while True:
        process = run.start()

        def at_work(process: subprocess.Popen[str] = process) -> list[int]:
            return run.has_decoded([process.pid, *family(process.pid)])

        enough = killed["at work"] + killed["writing"] >= kills
        wait_for_moment(process, deadline, rng, None if enough else longest, at_work)
        if process.returncode is not None:
            return {"code": process.returncode, "killed": dict(killed), "processes_left": orphans}
        what = "at work" if at_work() else "writing" if run.is_done() else "starting"
        below = family(process.pid)
        process.kill()
        process.wait()
        orphans += len(wait_for_end(below))
        if time.monotonic() > deadline:
            raise SystemExit(f"no end after {LIMIT_S} s: see {run.folder / 'log.txt'}")
        killed[what] += 1


def wait_for_end(pids: dict[int, str], seconds: float = 30.0) -> list[int]:
    """Wait until processes have ended of themselves; return, and end, those that don't (two agents of Ray's)."""
    end = time.monotonic() + seconds
    while (left := alive(iter(pids))) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def kill_workers(run: Run, kills: int, longest: float, rng: random.Random) -> dict[str, Any]:
    """Kill encoder actors of a running job at random moments; the job is left alone.

    Args:
        run: Prepared.
        kills: How many actors, at work.
        longest: Seconds, see :func:`wait_for_moment`.
        rng: Decides moments and victims.
    """
    process = run.start()
    killed: Counter[str] = Counter()
    deadline = time.monotonic() + LIMIT_S

    def encoders() -> list[int]:
        return sorted(pid for pid, name in family(process.pid).items() if "EncodeShards" in name)

    def at_work() -> list[int]:
        return run.has_decoded(encoders())

    while process.poll() is None and time.monotonic() < deadline:
        wait_for_moment(process, deadline, rng, None if killed["at work"] >= kills else longest, at_work)
        actors = encoders()
        if process.poll() is None and actors:
            pid = rng.choice(at_work() or actors)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed["at work" if run.has_decoded([pid]) else "starting"] += 1
    if process.returncode is None:
        wait_for_end({process.pid: "", **family(process.pid)}, 0)
        raise SystemExit(f"no end after {LIMIT_S} s: see {run.folder / 'log.txt'}")
    return {"code": process.returncode, "killed": dict(killed)}


def main() -> int:
    """Disturb the runs, print a table and write the JSON; 1 where labels differ or a run did not get through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("local", "ray", "both"), default="both")
    parser.add_argument("--kills", type=int, default=20, help="of one run, at work")
    parser.add_argument("--frames", type=int, default=100_000, help="of the dataset; more where a run ends too early")
    parser.add_argument(
        "--longest", type=float, default=4.0, help="longest time to a kill from when there is work, seconds"
    )
    parser.add_argument("--actors", type=int, default=2, help="encoders of engine=ray")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--folder", type=Path, help="where dataset and runs are made and kept; default: a temporary one"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "labelling_kills.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = (options.folder or Path(scratch)).absolute()
        dataset = make_dataset(root / f"side{SIDE}-{options.frames}", options.frames, SIDE)
        found = measure(dataset, root, options)
    return int(report(found))


def measure(dataset: Path, root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run all that was asked for, each compared with the undisturbed run."""
    ray = ("engine=ray", f"ray.actors={options.actors}")
    ways: dict[str, Any] = {}
    if options.engine != "ray":
        ways["local"] = (kill_and_restart, (), options.kills)
    if options.engine != "local":
        ways["ray workers"] = (kill_workers, ray, options.kills)
        ways["ray driver"] = (kill_and_restart, ray, min(options.kills, DRIVER_KILLS))
    plain = Run(root / "undisturbed")
    plain.prepare(dataset)
    began = time.perf_counter()
    if plain.start().wait() != 0:
        raise SystemExit(f"the undisturbed run failed: see {plain.folder / 'log.txt'}")
    found: dict[str, Any] = {
        "frames": sum(episode.frames for episode in open_dataset(plain.dataset).episodes),
        "shards": plain.shards(),
        "seed": options.seed,
        "longest_s": options.longest,
        "undisturbed": {"decoded": plain.decoded(), "seconds": round(time.perf_counter() - began, 1)},
    }
    columns, files = plain.columns(), plain.files()
    for number, (name, (disturb, more, kills)) in enumerate(ways.items()):
        run = Run(root / name.replace(" ", "_"), more)
        run.prepare(dataset)
        began = time.perf_counter()
        told = disturb(run, kills, options.longest, random.Random(options.seed * 100 + number))
        found[name] = {
            **told,
            "asked": kills,
            "seconds": round(time.perf_counter() - began, 1),
            "decoded": run.decoded(),
            "columns_alike": bool(columns) and run.columns() == columns,
            "files_alike": run.files() == files,
        }
        options.out.write_text(json.dumps({**found, **describe_machine()}, indent=2) + "\n")
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    return found


def report(found: dict[str, Any]) -> bool:
    """Print the figures; return whether a run has failed."""
    plain = found["undisturbed"]
    table = Table("run", "kills at work", "while starting", "frames decoded", "times as many", "seconds", "labels")
    table.add_row("undisturbed", "0", "0", f"{plain['decoded']:,}", "1", f"{plain['seconds']:.0f}", "")
    bad = False
    for name, run in found.items():
        if not isinstance(run, dict) or "killed" not in run:
            continue
        killed = dict(run["killed"])
        starting = killed.pop("starting", 0)
        fine = run["code"] == 0 and run["columns_alike"] and run["files_alike"]
        few = sum(killed.values()) < run["asked"]
        bad |= few or not fine
        verdict = "the same bytes" if fine else f"DIFFER OR NOT THROUGH (exit code {run['code']})"
        verdict += f"; TOO FEW KILLS, {run['asked']} asked: give more --frames" if few else ""
        share = f"{run['decoded'] / plain['decoded']:.2f}"
        row = (name, sum(killed.values()), starting, f"{run['decoded']:,}", share, f"{run['seconds']:.0f}", verdict)
        table.add_row(*map(str, row))
    Console().print(table)
    return bad


if __name__ == "__main__":
    sys.exit(main())
