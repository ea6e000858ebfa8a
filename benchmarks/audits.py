"""Audit every task of every environment with `mini`, and time a large audit. Writes docs/audit/ and one JSON.

    python benchmarks/audits.py                # 22 audits of 2,000 frames; those that are there are not made again
    python benchmarks/audits.py --time         # 5,000 frames, 200 ways of scoring: seconds after encoding
    python benchmarks/audits.py --table        # only print what there is

Every audit is `vlmreward audit env=... env.task=...` with its defaults.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out

from text_goals import command

from vlmreward.cli.environments import find_tasks

HERE = Path(__file__).parent
PAGES = HERE.parent / "docs" / "audit"
TIMES = HERE / "results" / "audit_time.json"

ENVS = {
    "cartpole": "vlmreward/CartPole-v0",
    "mountaincar": "vlmreward/MountainCar-v0",
    "humanoid": "vlmreward/Humanoid-v0",
    "tabletop": "vlmreward/Tabletop-v0",
}
FIGURES = {
    "audit_score": "audit score",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "spearman_progress": "Spearman",
    "epic_progress": "EPIC",
    "prompt_margin": "margin over other prompts",
}
HEAD = """# The audits of every task with `mini`

Each is the audit of a task's own goal with the defaults: 2,000 frames, half of them states, half from episodes of
random actions. In brackets stand 95 % intervals; what the columns mean stands in
[the page of the command](../audit.md). A page with film strips and controls stands beside each JSON: download it and
open it in a browser. `python benchmarks/audits.py` makes all of it.

Where the audit score is low although AUROC is high, the reward knows the goal, but does not rise with the environment's
hand-written progress on the way to it.
"""
FRAMES = 5_000
GOALS = (
    "pole vertically upright on top of the cart", "the pole is up", "a stick balanced on a trolley",
    "the pole points to the sky", "balance", "inverted pendulum", "pole leaning to the right",
    "pole leaning to the left", "pole horizontal", "a cart and a pole", "pole hanging down",
    "cart at the left end of the track",
    "cart at the right end of the track", "cart in the middle", "the pole is above the cart",
    "the pole is below the cart", "the pole is falling", "the pole stands still", "upright", "success",
)  # fmt: skip
ALPHAS = tuple(round(i / 9, 3) for i in range(10))


def audit(env: str, task: str) -> None:
    """Audit one task; keep its figures, its page and its first landscape."""
    target = PAGES / f"{env}_{task}.json"
    if target.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        command("audit", f"env={env}", f"env.task={task}", f"out={out}", threads=2)
        PAGES.mkdir(parents=True, exist_ok=True)
        for picture in sorted(out.glob("landscape_*.png"))[:1]:
            shutil.copy(picture, target.with_suffix(".png"))
        shutil.copy(out / "audit.html", target.with_suffix(".html"))
        shutil.copy(out / "audit.json", target)


def measure_time() -> None:
    """Time a large audit of cart-pole end to end, encoding apart."""
    ways = [f"vary.goal={goal}" for goal in GOALS] + [f"vary.reward.alpha=[{','.join(map(str, ALPHAS))}]"]
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        command("audit", "env=cartpole", "env.task=upright", f"count={FRAMES}", f"out={out}", *ways, threads=2)
        total = time.perf_counter() - began
        found = json.loads((Path(out) / "audit.json").read_text())
    (view,) = found["views"]
    assert len(GOALS) * len(ALPHAS) == sum(not s["name"].startswith("baseline:") for s in view["sweeps"])
    seconds = found["seconds"] | {"total": round(total, 2)}
    seconds["after_encoding"] = round(total - found["seconds"]["frames"], 2)
    result = {"frames": view["frames"], "ways": len(GOALS) * len(ALPHAS), "replicates": view["replicates"]}
    keys = ("versions", "git_commit", "cpus")
    TIMES.write_text(json.dumps(result | {"seconds": seconds} | {k: found[k] for k in keys}, indent=2) + "\n")


def write_page() -> str:
    """Write the table of all audits as docs/audit/README.md, and return it."""
    rows = [f"| env | task | frames with success | {' | '.join(FIGURES.values())} |", "|---" * (len(FIGURES) + 3) + "|"]
    for env, id in ENVS.items():
        for task in find_tasks(id):
            path = PAGES / f"{env}_{task}.json"
            if path.exists():
                rows.append(_row(env, task, json.loads(path.read_text())["views"][0]))
    pictures = [f"![{path.stem}]({path.name})" for path in sorted(PAGES.glob("*.png"))]
    table = "\n".join(rows)
    (PAGES / "README.md").write_text(f"{HEAD}\n{table}\n\n## Landscapes\n\n" + "\n".join(pictures) + "\n")
    return table


def _row(env: str, task: str, view: dict[str, Any]) -> str:
    metrics = view["sweeps"][0]["metrics"]
    cells = []
    for name in FIGURES:
        found = metrics.get(name, {"value": None})
        known = found["value"] is not None
        cells.append(f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})" if known else "–")
    return (
        f"| {env} | [{task}]({env}_{task}.html) | {view['success_frames']} of {view['frames']} | {' | '.join(cells)} |"
    )


def main() -> None:
    """Make what is missing, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="time a large audit instead")
    parser.add_argument("--table", action="store_true", help="print the results there are")
    arguments = parser.parse_args()
    if arguments.time:
        measure_time()
    elif not arguments.table:
        for env, id in ENVS.items():
            for task in find_tasks(id):
                audit(env, task)
    print(write_page())
    if TIMES.exists():
        known = json.loads(TIMES.read_text())
        print(f"\n{known['frames']} frames, {known['ways']} ways of scoring, seconds: {known['seconds']}")


if __name__ == "__main__":
    main()
