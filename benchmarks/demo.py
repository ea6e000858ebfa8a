"""Run ``make demo`` and write its figures to results/demo.json. Nothing else should run on the machine.

    python benchmarks/demo.py

The set-up must be done (``make setup``): the command is timed without it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEYS = ("env", "goal", "encoder", "reward", "agent", "seed", "versions", "git_commit", "timesteps", "cpus", "threads")
MORE = ("wall_seconds", "phase_seconds", "frames")


def main() -> None:
    """Run, and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        load, start = os.getloadavg()[0], time.perf_counter()
        subprocess.run(["make", "demo", f"RUN={run}"], check=True, cwd=HERE.parent)
        whole = time.perf_counter() - start
        trained = json.loads((run / "result.json").read_text())
        (evaluated,) = run.glob("evaluation__*.json")
        success = json.loads(evaluated.read_text())["evaluation"]["success"]
    result: dict[str, Any] = {"command": "make demo", "command_seconds": round(whole, 1), "load_before": load}
    result |= {key: trained[key] for key in (*KEYS, *MORE)} | {"success": success}
    path = HERE / "results" / "demo.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"training {result['wall_seconds']:.0f} s, whole command {whole:.0f} s, success {success['rate']:.2f}: {path}"
    )


if __name__ == "__main__":
    main()
