"""Train on rewards that are learned beside the agent, from a judge that errs, and measure by the true state.

    python benchmarks/learned_rewards.py                    # cartpole with DQN: 3 rewards, seeds 0 to 4
    python benchmarks/learned_rewards.py --seeds 0          # one seed of each
    python benchmarks/learned_rewards.py --latency          # steps per second with a judge of 5 s, and without one
    python benchmarks/learned_rewards.py --table            # only print what there is

``direct`` is the similarity to the goal in words (reward=clip). ``preference`` learns from a scripted judge's
comparisons of pairs, asked in both orders, 10 % of which are wrong in either order; ``distilled`` from its ratings of
single frames in 5 levels, 10 % of which are another level. The judge knows the true state; the agent and its reward see
pictures alone. Every run is a `vlmreward train` with the environment's defaults, then `vlmreward evaluate` of 100
episodes from any start and 100 from the upright one. Runs whose JSON is there are not made again, so the study can be
stopped at any time.

The latency study trains for some steps with each judge in turn, round by round, and compares what learning took by the
clock on the wall: no judge (a budget of one call, for which no pair can be asked), one that answers at once, and one
that sleeps for 5 s in every call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out

from text_goals import command, curve, success

HERE = Path(__file__).parent
STEPS = 120_000
SEEDS = (0, 1, 2, 3, 4)
ERRORS = 0.1
JUDGE = ("reward.annotator.name=scripted", f"reward.annotator.errors={ERRORS}")
RATINGS = (*JUDGE, "reward.annotator.low=-2", "reward.annotator.high=2")  # an action sums two cosines of the angle
WAYS: dict[str, tuple[str, ...]] = {
    "direct": ("reward=clip",),
    "preference": ("reward=preference", *JUDGE, "reward.learning.budget=4000"),
    "distilled": ("reward=distilled", *RATINGS, "reward.learning.budget=2000"),
}
NO_JUDGE, INSTANT, SLOW = "no judge", "answers at once", "5 s a call"
JUDGES: dict[str, tuple[str, ...]] = {
    NO_JUDGE: ("reward.learning.budget=1",),
    INSTANT: (),
    SLOW: ("reward.annotator.seconds=5",),
}
STARTS = ("any", "upright")


def train(run: Path, seed: int, steps: int, threads: int, *settings: str) -> dict[str, Any]:
    """Train one agent and return its result."""
    asked = ("env=cartpole", "agent=dqn", f"seed={seed}", f"total_timesteps={steps}", f"run_dir={run}", "audit=off")
    command("train", *asked, *settings, threads=threads)
    return json.loads((run / "result.json").read_text())


def study_run(way: str, seed: int, steps: int, folder: Path, threads: int) -> None:
    """Train and evaluate one agent, and write its JSON."""
    target = folder / f"{way}__seed{seed}.json"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        trained = train(run, seed, steps, threads, *WAYS[way], "eval.episodes=1")
        keys = ("env", "goal", "encoder", "reward", "agent", "seed", "versions", "timesteps", "cpus", "threads")
        result = {key: trained[key] for key in (*keys, "git_commit", "learned_reward", "wall_seconds", "phase_seconds")}
        result["curve"] = curve(run / "metrics.jsonl")
        result["success"] = {}
        for start in STARTS:
            out = Path(scratch) / f"{start}.json"
            asked = (f"run={run}", "episodes=100", "score=false", f"out={out}", f"env.kwargs.start={start}")
            command("evaluate", *asked, threads=threads)
            result["success"][start] = success(out)
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")


def study_latency(rounds: int, steps: int, folder: Path, threads: int) -> None:
    """Measure the step rate with each judge in turn, and write it after every round."""
    target = folder / "latency.json"
    rates: dict[str, list[float]] = {name: [] for name in JUDGES}
    reports: dict[str, Any] = {}
    for number in range(rounds):
        names = list(JUDGES)
        for name in names[number % 3 :] + names[: number % 3]:  # none is always first
            with tempfile.TemporaryDirectory() as scratch:
                asked = (*WAYS["preference"], *JUDGES[name], "eval.episodes=1")
                result = train(Path(scratch) / "run", 0, steps, threads, *asked)
            rates[name].append(round(steps / result["wall_seconds"], 2))
            reports[name] = result["learned_reward"]
        paired = {
            name: [round(own / other, 4) for own, other in zip(rates[SLOW], rates[name], strict=True)]
            for name in (NO_JUDGE, INSTANT)
        }
        medians = {name: statistics.median(values) for name, values in paired.items()}
        about = {"cpus": result["cpus"], "threads": result["threads"], "versions": result["versions"]}
        about |= {"steps": steps, "steps_per_second": rates, "slow_over": paired, "slow_over_median": medians}
        folder.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({**about, "learned_reward": reports}, indent=2) + "\n")


def print_table(folder: Path) -> None:
    """Print what there is."""
    print("| reward, seed | success, any start | success, upright start | calls | answers used | heads |")
    print("|---|---|---|---|---|---|")
    for path in sorted(folder.glob("*__seed*.json")):
        result = json.loads(path.read_text())
        learned = result["learned_reward"] or dict.fromkeys(("calls", "examples", "version"), "-")
        cells = [f"{result['success'][s]['rate']:.2f}" for s in STARTS]
        cells += [str(learned[key]) for key in ("calls", "examples", "version")]
        print(f"| {path.stem.replace('__', ', ')} | {' | '.join(cells)} |")
    if (folder / "latency.json").exists():
        found = json.loads((folder / "latency.json").read_text())
        for name, rates in found["steps_per_second"].items():
            print(f"{name}: {statistics.median(rates):.1f} steps/s, median of {len(rates)} rounds of {found['steps']}")
        for name, ratio in found["slow_over_median"].items():
            print(f"5 s a call over {name}: {ratio:.3f}")


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="which rewards")
    parser.add_argument("--total-timesteps", type=int, help=f"other than {STEPS}; results in a folder of its own")
    parser.add_argument("--threads", type=int, default=2, help="torch threads of a run")
    parser.add_argument("--latency", action="store_true", help="measure the step rate instead")
    parser.add_argument("--rounds", type=int, default=5, help="of the latency study")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "learned_rewards", help="folder of the results")
    parser.add_argument("--table", action="store_true", help="print the results there are")
    arguments = parser.parse_args()
    steps = arguments.total_timesteps or (20_000 if arguments.latency else STEPS)
    folder = arguments.out if arguments.total_timesteps is None else arguments.out / f"{steps}_steps"
    if arguments.latency and not arguments.table:
        study_latency(arguments.rounds, steps, folder, arguments.threads)
    elif not arguments.table:
        for seed in arguments.seeds:  # all rewards of a seed first: a study that is stopped is still a comparison
            for way in arguments.ways:
                study_run(way, seed, steps, folder, arguments.threads)
    print_table(folder)


if __name__ == "__main__":
    main()
