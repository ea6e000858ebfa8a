"""Engines and number formats of the image tower, side by side, against VLM-RM's loop and the processor's own limit.

    python benchmarks/encoders.py                          # mini and ViT-B-32
    python benchmarks/encoders.py --encoder mini --encoder 'RN50, random weights'

Every way turns the same frames (480 x 480 pixels of the humanoid in random poses) into rewards with the same weights.
The ways run interleaved, each once in a round and every round in another order, and ratios are taken within a round.
The unit is processor time of this process, on one thread. The reference is VLM-RM's loop, re-implemented from its
paper's description: pixels to float32, bicubic resize of the whole batch, the float32 model, and the reward through the
D x D projection.

Beside each way stands the share of the processor's limit that its tower reaches: floating-point operations (those of
PyTorch's counter) over the time on pictures of its own size, as a part of the fastest matrix product in the same number
format that PyTorch or OpenVINO computes on the same machine in the same rounds, the best of .2 s of repetitions each.

Weights other than those of mini are random: they serve speed and no more. Whether int8 keeps the order of rewards is
therefore asked of mini alone, in two environments: each time it is calibrated on a third of the frames and judged on
the others.

Claims: ViT-B-32 is at least 2.0 x the reference in PyTorch's bf16 and 3.8 x in OpenVINO's int8, these towers reach 70 %
of the limit of their number format, as PyTorch's fp32 does, and int8 has a rank correlation of .995. What is said of
bf16 and int8 is asked of processors that multiply in these formats: bf16 needs avx512_bf16 or amx_bf16, int8 one of
avx512_vnni, avx_vnni and amx_int8. Without the former bf16 is not run; without the latter int8 runs and is not asked.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would count as work; before torch loads
os.environ.setdefault("MUJOCO_GL", "egl")
sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out

import numpy as np
import torch
from encoders_ways import (
    CARTPOLE,
    HUMANOID,
    INT8,
    NEEDS,
    REFERENCE,
    SIDE,
    TORCH,
    Bench,
    build,
    count_operations,
    judge_int8,
    lacks,
    matrix_products,
    render,
)
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from throughput import machine
from throughput_bench import Library
from throughput_ways import MINI, RANDOM, VIT

from vlmreward.encoders.device import cpu_flags
from vlmreward.encoders.int8 import quantise
from vlmreward.encoders.int8_gate import Agreement, spearman
from vlmreward.types import Frames

USUAL = (MINI, VIT)
ENCODERS = (*USUAL, "RN50" + RANDOM)
STATES = 105  # a third calibrates int8
SPEED_BARS = {TORCH: None, "torch bf16": 2.0, INT8: 3.8}  # over the reference, ViT-B-32
PRODUCT_SECONDS = 0.2
SHARE_BAR, SPEARMAN_BAR = 0.7, 0.995


def seconds_of(run: Callable[[], Any]) -> float:
    """Return processor seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def best_seconds(run: Callable[[], Any]) -> float:
    """Return the least processor seconds of a call that is repeated for ``PRODUCT_SECONDS``."""
    seconds = [seconds_of(run)]
    while sum(seconds) < PRODUCT_SECONDS:
        seconds.append(seconds_of(run))
    return min(seconds)


def measure(
    name: str, bench: Bench, agreement: Agreement | None, operations: float, frames: Frames, rounds: int, count: int
) -> dict[str, Any]:
    """Return every figure of one encoder; times are medians over rounds, and ``agreement`` is that of its int8."""
    products = matrix_products()
    part = np.ascontiguousarray(frames[:count])
    own = bench.fit(part)
    times: dict[tuple[str, str], list[float]] = {}
    timed: dict[tuple[str, str], Callable[[], float]] = {}  # seconds per frame, or per operation
    for fmt, calls in products.items():
        timed["product", fmt] = lambda calls=calls: min(best_seconds(call) / each for each, call in calls)
    for step, prepare in bench.steps.items():
        timed["step", step] = lambda prepare=prepare: seconds_of(lambda: prepare(part)) / count
    for way, reward in bench.ways.items():
        timed["way", way] = lambda reward=reward: seconds_of(lambda: reward(part)) / count
    for way, encoder in bench.encoders.items():
        timed["tower", way] = lambda encoder=encoder: seconds_of(lambda: encoder.encode_images(own)) / count
    found = {way: reward(part) for way, reward in bench.ways.items()}
    order = np.random.default_rng(0)
    for turn in range(rounds + 1):  # the first one warms up
        for number in order.permutation(len(timed)):
            key = list(timed)[number]
            seconds = timed[key]()
            if turn:
                times.setdefault(key, []).append(seconds)
    middle = {key: statistics.median(values) for key, values in times.items()}
    rows = []
    for way in bench.ways:
        over = [a / b for a, b in zip(times["way", REFERENCE], times["way", way], strict=True)]
        row: dict[str, Any] = {
            "way": way,
            "images_per_core_second": round(1 / middle["way", way], 2),
            "over_reference": round(statistics.median(over), 3),
            "over_reference_range": [round(min(over), 3), round(max(over), 3)],
        }
        if name == MINI:  # of random weights it would say nothing
            held_out = agreement if way == INT8 else None
            rank = spearman(found[TORCH], found[way]) if held_out is None else held_out.spearman
            row["reward_spearman_to_torch_fp32"] = round(rank, 5)
            row["reward_spearman_frames"] = count if held_out is None else held_out.rewards
        if way in bench.encoders:
            row["images_of_own_size_per_core_second"] = round(1 / middle["tower", way], 2)
            limit = operations * middle["product", way.split()[1]]
            row["share_of_gemm_peak"] = round(limit / middle["tower", way], 3)
        rows.append(row)
    return {
        "weights": "trained" if name == MINI else "random",
        "gigaflop_per_image": round(operations / 1e9, 3),
        "frames_per_round": count,
        "rounds": rounds,
        "ways": rows,
        "gemm_peak_giga_operations_per_core_second": {fmt: round(1e-9 / middle["product", fmt], 1) for fmt in products},
        "preprocessing_ms_per_frame": {step: round(1e3 * middle["step", step], 3) for step in bench.steps},
    }


def show(console: Console, name: str, figures: dict[str, Any]) -> None:
    """Print the tables of one encoder."""
    title = f"{name}, {figures['gigaflop_per_image']} GFLOP, frames of {SIDE} px, one core"
    table = Table(title=title, box=MARKDOWN)
    peaks = figures["gemm_peak_giga_operations_per_core_second"]
    rank_head = "reward Spearman to torch fp32 (frames)"
    heads = ("way", "images / s", "x VLM-RM (range)", "own size: images / s", "of GEMM peak (G op/s)", rank_head)
    for head in (*heads, "the processor"):
        table.add_column(head, justify="left" if head in ("way", "the processor") else "right")
    for row in figures["ways"]:
        way, (low, high) = row["way"], row["over_reference_range"]
        fmt = "fp32" if way == REFERENCE else way.split()[1]
        cells = [f"{row['images_per_core_second']:.1f}", f"{row['over_reference']:.2f} ({low:.2f}-{high:.2f})"]
        if way == REFERENCE:
            cells += ["", ""]
        else:
            cells.append(f"{row['images_of_own_size_per_core_second']:.1f}")
            cells.append(f"{row['share_of_gemm_peak']:.0%} ({peaks[fmt]:.0f})")
        rank = ""
        if "reward_spearman_frames" in row:
            rank = f"{row['reward_spearman_to_torch_fp32']:.4f} ({row['reward_spearman_frames']})"
        table.add_row(way, *cells, rank, about_processor(fmt))
    if lacks("bf16"):
        table.add_row("bf16", *["not run", "", "", "", ""], about_processor("bf16"))
    console.print(table)
    steps = figures["preprocessing_ms_per_frame"]
    table = Table(title=f"preprocessing from {SIDE} px", box=MARKDOWN)
    for head in ("way", "ms / frame", "ours is faster by"):
        table.add_column(head, justify="left" if head == "way" else "right")
    *_, ours = steps.values()
    for step, ms in steps.items():
        table.add_row(step, f"{ms:.2f}", f"{ms / ours:.2f} x")
    console.print(table)
    console.print()


def about_processor(fmt: str) -> str:
    """Return in words whether this processor multiplies in a number format."""
    return f"has not {lacks(fmt)}" if lacks(fmt) else f"has {fmt}"


def claims(result: dict[str, Any], agreements: dict[str, Agreement]) -> dict[str, dict[str, Any]]:
    """Return for each claim about the measured encoders its figure, and whether it holds or why it is not asked."""
    asked: dict[str, dict[str, Any]] = {}

    def ask(claim: str, figure: float | None, bar: float, why_not: str = "") -> None:
        asked[claim] = {
            "figure": figure,
            "bar": bar,
            "holds": None if why_not else figure is not None and figure >= bar,
        }
        if why_not:
            asked[claim]["not_asked"] = why_not

    if VIT in result:
        rows = {row["way"]: row for row in result[VIT]["ways"]}
        for way, bar in SPEED_BARS.items():
            fmt, row = way.split()[1], rows.get(way, {})
            why_not = f"this processor has not {lacks(fmt)}" if lacks(fmt) else ""
            if bar is not None:
                ask(f"ViT-B-32, {way}, times VLM-RM's loop", row.get("over_reference"), bar, why_not)
            ask(f"ViT-B-32, {way}, share of the GEMM peak", row.get("share_of_gemm_peak"), SHARE_BAR, why_not)
    for scene, agreement in agreements.items():
        ask(f"mini in int8, Spearman of rewards, {scene}", round(agreement.spearman, 5), SPEARMAN_BAR)
    return asked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--encoder", action="append", choices=ENCODERS, metavar="NAME", help=f"repeat it; one of: {'; '.join(ENCODERS)}"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=16, help="timed in a round")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encoders.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights, which are known here
    torch.set_num_threads(1)
    console, names = Console(width=180), args.encoder or list(USUAL)
    about = machine(1)
    about["features"] = sorted(cpu_flags() & {"avx2", "avx512f", *" or ".join(NEEDS.values()).split(" or ")})
    about["versions"] |= {package: version(package) for package in ("openvino", "nncf")}
    console.print(f"processor: {about['cpu']}, {', '.join(about['features'])}\n")
    libraries = {name: Library(name) for name in names}
    operations = {name: count_operations(library) for name, library in libraries.items()}
    frames = render(HUMANOID, STATES)
    agreements: dict[str, Agreement] = {}
    result: dict[str, Any] = {}
    for name, library in libraries.items():
        bench = build(name, library, frames)
        if name == MINI:
            encoder, others = bench.encoders[TORCH], render(CARTPOLE, STATES)
            agreements["humanoid"] = judge_int8(encoder, bench.tower, HUMANOID)
            tower = quantise(encoder, others, np.arange(len(others)))
            agreements["cartpole"] = judge_int8(encoder, tower, CARTPOLE)
            for scene, agreement in agreements.items():
                console.print(f"mini in int8, {scene}: {agreement}")
            console.print()
        judged = agreements["humanoid"] if name == MINI else None
        result[name] = measure(name, bench, judged, operations[name], frames, args.rounds, args.frames)
        show(console, name, result[name])
    asked = claims(result, agreements)
    for claim, about_it in asked.items():
        verdict = {True: "holds", False: "DOES NOT HOLD", None: f"not asked here: {about_it.get('not_asked')}"}
        figure = "none" if about_it["figure"] is None else f"{about_it['figure']:.3f}"
        console.print(f"{claim}: {figure}, at least {about_it['bar']}: {verdict[about_it['holds']]}")
    command = f"python benchmarks/encoders.py --rounds {args.rounds} --frames {args.frames}"
    command += "".join(f" --encoder '{name}'" for name in args.encoder or ())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    agreed = {scene: asdict(agreement) for scene, agreement in agreements.items()}
    whole = {"command": command, "machine": about, "encoders": result, "mini_int8": agreed, "claims": asked}
    args.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 1 if any(about_it["holds"] is False for about_it in asked.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
