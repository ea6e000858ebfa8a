"""How long an audit's numbers take: every metric of many sweeps with bootstrap intervals, on one core.

    python benchmarks/audit_metrics.py              # 5,000 frames x 200 sweeps x 1,000 replicates, about 2 minutes

Scores are made up: progress that drifts in each rollout, seen through noise that is different in every sweep. Time
is CPU time of this process and includes sorting, drawing, every metric, the intervals and the table as JSON. Beside
it stands the usual way, scipy and scikit-learn on resampled frames, timed in the same run on a few replicates and
multiplied; its values also check ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core for matrix products, too; before numpy loads

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from vlmreward.audit.bootstrap import REPLICATES, draw_counts, estimate, select_metrics
from vlmreward.audit.sample import Array, Sample, make_sample
from vlmreward.audit.table import make_table

MOST_SECONDS = 60.0
AIM_SECONDS = 20.0
TOLERANCE = 1e-9
STEPS = 50  # of a rollout

Reference = Callable[[Array, Array, Array], float]
# the metrics that other packages have, of plain arrays: scores, success, progress
USUAL: dict[str, Reference] = {
    "pearson_progress": lambda x, success, progress: stats.pearsonr(x, progress)[0],
    "spearman_progress": lambda x, success, progress: stats.spearmanr(x, progress)[0],
    "kendall_tau_b": lambda x, success, progress: stats.kendalltau(x, progress)[0],
    "auroc": lambda x, success, progress: roc_auc_score(success, x),
    "auprc": lambda x, success, progress: average_precision_score(success, x),
}


def make_case(frames: int, sweeps: int, rollouts: bool, digits: int | None) -> Sample:
    """Return made-up scores with every kind of label.

    Args:
        frames: N.
        sweeps: S.
        rollouts: Frames come from rollouts of ``STEPS`` frames; else each is independent.
        digits: Decimals of the scores; None for float32, where hardly any two are equal.
    """
    rng = np.random.default_rng(0)
    group, step = np.arange(frames) // STEPS, np.arange(frames) % STEPS
    reached = rng.random(group[-1] + 1)[group]
    progress = reached * step / STEPS + 0.02 * rng.normal(size=frames)
    signal = np.linspace(0, 1, sweeps)  # from useless to good
    scores = 0.2 * signal * progress[:, None] + 0.05 * rng.normal(size=(frames, sweeps))
    scores = scores.astype(np.float32) if digits is None else scores.round(digits)
    known: dict[str, Any] = {"group": group, "step": step} if rollouts else {}
    cues = {"brightness": rng.random(frames)}
    return make_sample(
        scores, success=progress > 0.5, progress=progress, cues=cues, width=2.0, noise=1e-3, margin=0.1, **known
    )


def measure(name: str, sample: Sample, replicates: int, by_hand: int) -> dict[str, Any]:
    """Time one case, and the usual way on a few of its replicates."""
    sweeps = sample.scores.shape[1]
    metrics = select_metrics(sample)
    start = time.process_time()
    counts = draw_counts(sample.groups, replicates)
    found = estimate(sample, metrics, counts)
    result = make_table([str(s) for s in range(sweeps)], sample, found).to_json()
    ours = time.process_time() - start
    json.dumps(result, allow_nan=False)

    picked = np.linspace(0, sweeps - 1, 3).astype(int)
    worst = 0.0
    seconds = dict.fromkeys(USUAL, 0.0)
    for count in [np.ones(sample.groups, dtype=np.int64), *counts[:by_hand]]:
        rows = np.repeat(np.arange(len(sample.group)), count[sample.group])
        for s in picked:
            x, success, progress = sample.scores[rows, s], sample.success[rows], sample.labels["progress"][rows]
            for metric, reference in USUAL.items():
                start = time.process_time()
                value = reference(x, success, progress)
                seconds[metric] += time.process_time() - start
                if (count == 1).all():
                    worst = max(worst, abs(value - found[metric].value[s]))
    runs = (1 + by_hand) * len(picked)
    return {
        "case": name,
        "frames": len(sample.group),
        "groups": sample.groups,
        "sweeps": sweeps,
        "replicates": replicates,
        "metrics": [metric.name for metric in metrics],
        "seconds": round(ours, 2),
        "usual_metrics": list(USUAL),
        "usual_seconds_multiplied": round(sum(seconds.values()) / runs * sweeps * (replicates + 1), 0),
        "largest_difference": worst,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def verdicts(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Return whether each claim holds."""
    plain = [row["seconds"] for row in rows if "tied" not in row["case"]]
    return {
        f"all metrics of a case in {MOST_SECONDS:g} s": all(row["seconds"] <= MOST_SECONDS for row in rows),
        f"without many ties in {AIM_SECONDS:g} s": all(seconds <= AIM_SECONDS for seconds in plain),
        f"values equal those of scipy and scikit-learn to {TOLERANCE:g}": all(
            row["largest_difference"] <= TOLERANCE for row in rows
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--by-hand", type=int, default=3, help="replicates that the usual way is timed on (default 3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "audit_metrics.json")
    args = parser.parse_args()

    cases = {
        "independent frames": (False, None),
        f"rollouts of {STEPS} frames": (True, None),
        "rollouts, scores tied (2 decimals)": (True, 2),
    }
    rows = [
        measure(name, make_case(args.frames, args.sweeps, *how), args.replicates, args.by_hand)
        for name, how in cases.items()
    ]
    console = Console(width=120)
    console.print(
        f"{args.frames} frames x {args.sweeps} sweeps x {args.replicates} replicates, CPU seconds on one core"
    )
    table = Table("case", "metrics", "seconds", f"usual way, {len(USUAL)} metrics", "difference", "peak memory, MB")
    for row in rows:
        usual = f"{row['usual_seconds_multiplied']:,.0f}"
        memory = str(row["peak_memory_mb"])
        difference = f"{row['largest_difference']:.0e}"
        table.add_row(row["case"], str(len(row["metrics"])), f"{row['seconds']:.1f}", usual, difference, memory)
    console.print(table)
    claims = verdicts(rows)
    for claim, holds in claims.items():
        console.print(f"{claim}: {'holds' if holds else 'DOES NOT HOLD'}")
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.is_file() else [])
        if line.startswith("model name")
    ]
    result = {
        "command": " ".join(["python benchmarks/audit_metrics.py", *sys.argv[1:]]),
        "versions": {p: version(p) for p in ("vlmreward", "numpy", "scipy", "scikit-learn")}
        | {"python": platform.python_version()},
        "machine": {"cpu": names[0] if names else platform.machine(), "threads": os.environ["OMP_NUM_THREADS"]},
        "unit": "CPU time of the process",
        "claims": claims,
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
