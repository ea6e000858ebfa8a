"""Which parts of a pose's predicate the last states of a humanoid run miss, and by how much.

    vlmreward train env=humanoid env.task=lotus run_dir=runs/lotus
    python benchmarks/humanoid_failures.py runs/lotus --name lotus__seed0

The last policy runs the first episodes of `vlmreward evaluate`. Writes results/humanoid/failures.json: per fact of
the predicate its range, the share of episodes that end outside it, and quantiles of the value.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.cli.load_run import load_policy
from vlmreward.cli.subject import read_subject
from vlmreward.envs.mujoco.humanoid.tasks import get_criteria

HERE = Path(__file__).parent


def last_states(run: str, episodes: int) -> tuple[str, list[dict[str, float]], list[bool]]:
    """Return the task of a run, and the facts and the success at the end of each episode."""
    subject = read_subject("evaluate", [f"run={run}", f"episodes={episodes}", "score=false"])
    assert subject is not None
    env: Any = subject.settings.env.factory()()
    policy, _ = load_policy(subject, 1, env)
    facts, success = [], []
    for episode in range(episodes):
        seed = int(subject.options["seed"]) + episode
        obs, info = env.reset(seed=seed)
        policy.start(0, seed)
        ended = False
        while not ended:
            obs, _, terminated, truncated, info = env.step(policy.act(np.asarray(obs)[None])[0])
            ended = terminated or truncated
        facts.append(env.unwrapped.facts())
        success.append(bool(info["success"]))
    env.close()
    return str(subject.settings.env.task), facts, success


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder of env=humanoid")
    parser.add_argument("--name", required=True, help="key in the JSON")
    parser.add_argument("--episodes", type=int, default=100)
    arguments = parser.parse_args()
    task, facts, success = last_states(arguments.run, arguments.episodes)
    rows = {}
    for criterion in get_criteria(task):
        values = np.array([f[criterion.fact] for f in facts])
        rows[criterion.fact] = {
            "range": [float(edge) if np.isfinite(edge) else None for edge in (criterion.low, criterion.high)],
            "outside": float(np.mean([criterion.violation(value) > 0 for value in values])),
            "quantiles_10_50_90": [round(float(q), 4) for q in np.quantile(values, [0.1, 0.5, 0.9])],
        }
    path = HERE / "results" / "humanoid" / "failures.json"
    table = json.loads(path.read_text()) if path.exists() else {}
    table[arguments.name] = {"task": task, "episodes": len(facts), "success": float(np.mean(success)), "facts": rows}
    path.write_text(json.dumps(table, indent=2) + "\n")
    for fact, row in rows.items():
        print(f"{fact:24} range {row['range']}  outside {row['outside']:.2f}  10/50/90 % {row['quantiles_10_50_90']}")


if __name__ == "__main__":
    main()
