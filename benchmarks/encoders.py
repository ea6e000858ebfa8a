"""Engines and number formats of the image tower, side by side, against the loop of VLM-RM and the processor's own limit.

    python benchmarks/encoders.py                          # mini, ViT-B-32 and RN50; minutes each
    python benchmarks/encoders.py --encoder mini --rounds 5

Every way turns the same frames (480 x 480 pixels of the humanoid in random poses) into rewards with the same weights.
The ways run interleaved, each once in a round, and ratios are taken within a round. The unit is processor time of this
process per image, on one thread, which other work on the machine changes little. The reference is VLM-RM's loop as its
paper and code have it: pixels to float, bicubic resize of all of them, the float32 model on a batch, and the reward
through the whole D x D projection. Weights other than those of ``mini`` are random: they serve speed and arithmetic, and
no more; the rank correlation of their rewards says how exact the arithmetic is, on rewards that differ by little.

Beside each way stands the share of the processor's limit that its tower reaches: its floating-point operations (those of
PyTorch's counter) over its time on pictures of its own size, as a part of the rate of a large matrix product in the same
number format on the same machine. Formats that the processor has not are named and not run, but for int8, which any
processor computes, without VNNI at the rate of fp32. It is calibrated on one
third of the frames and judged on the others; whether it would be refused is in the table.

Two claims, on processors with bfloat16 and VNNI: ViT-B-32 is 2.0 x the reference in bfloat16 and 3.8 x in int8 at a rank
correlation of .995; and it reaches 70 % of the limit.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would count as work; before torch loads
os.environ.setdefault("MUJOCO_GL", "egl")
sys.path.append(str(Path(__file__).parent))  # PYTHONSAFEPATH keeps a script's own folder out

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from throughput import machine
from throughput_bench import Library, make_clip_encoder
from throughput_ways import MINI, RANDOM
from torch.utils.flop_counter import FlopCounterMode

import vlmreward.envs  # noqa: F401  (registers the environments)
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import cpu_flags, cpu_has_bf16
from vlmreward.encoders.int8 import VNNI, quantise, with_int8
from vlmreward.encoders.int8_gate import Agreement, judge, spearman
from vlmreward.encoders.openvino_tower import import_openvino, openvino_core
from vlmreward.rewards import make_reward
from vlmreward.types import FloatArray, FrameBatch, Frames

ENCODERS = (MINI, "ViT-B-32" + RANDOM, "RN50" + RANDOM)
GOAL, BASELINE, ALPHA = "a humanoid robot kneeling", "a humanoid robot", 0.5
SIDE = 480
STATES = 96  # a third calibrates int8
GEMM = 1536  # rows and columns of the matrix product
REFERENCE = "VLM-RM's loop"
BARS = {"bf16": 2.0, "int8": 3.8}  # over the reference, ViT-B-32
SHARE_BAR, SPEARMAN_BAR = 0.7, 0.995


class VlmRm:
    """VLM-RM's loop: preprocessing, model and reward.

    Args:
        library: The model and its tokenizer.
        encoder: Ours, for the size and the normalisation of its pictures.
    """

    def __init__(self, library: Library, encoder: ClipEncoder) -> None:
        config = encoder.preprocess
        self.model, self.size = library.model, config.size
        self.mean, self.std = (torch.tensor(x).view(3, 1, 1) for x in (config.mean, config.std))
        self.goal, baseline = library.text(GOAL), library.text(BASELINE)
        line = self.goal - baseline
        self.projection = ALPHA * torch.outer(line, line) / (line @ line) + (1 - ALPHA) * torch.eye(len(line))

    def preprocess(self, frames: Frames) -> torch.Tensor:
        """Return pixels, float32, shape (N, 3, *size)."""
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=True, align_corners=False)
        return (pixels - self.mean) / self.std

    @torch.no_grad()
    def __call__(self, frames: Frames) -> FloatArray:
        """Return rewards, shape (N,)."""
        x = F.normalize(self.model.encode_image(self.preprocess(frames)), dim=-1)
        return (1 - 0.5 * ((x - self.goal) @ self.projection).norm(dim=-1) ** 2).numpy()


def ours(encoder: ClipEncoder) -> Callable[[Frames], FloatArray]:
    """Return what turns frames into rewards in the way that training does."""
    model = make_reward("clip", encoder, goal=GOAL, baseline=BASELINE, alpha=ALPHA)

    def rewards(frames: Frames) -> FloatArray:
        n = len(frames)
        embeddings = encoder.encode_images(frames)
        return model.compute_reward(FrameBatch(np.zeros(n, np.int64), np.arange(n), embeddings=embeddings)).reward

    return rewards


def render(count: int) -> Frames:
    """Return pictures of the humanoid in random poses, uint8, shape (count, SIDE, SIDE, 3)."""
    env = gym.make(
        "vlmreward/Humanoid-v0", width=SIDE, height=SIDE, quality="fast", start="random", render_mode="rgb_array"
    )
    frames: list[Any] = []
    for seed in range(count):
        env.reset(seed=seed)
        frames.append(env.render())
    env.close()
    return np.stack(frames)


def count_operations(library: Library, size: tuple[int, int]) -> float:
    """Return the floating-point operations of the image tower, one picture."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into it
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        library.model.encode_image(torch.zeros(1, 3, *size))
    torch.backends.mha.set_fastpath_enabled(fast)
    return float(counter.get_total_flops())


def seconds_of(run: Callable[[], Any]) -> float:
    """Return processor seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def matrix_products() -> dict[str, Callable[[], Any]]:
    """Return, by number format, what multiplies two matrices of GEMM x GEMM on one thread."""
    a = torch.randn(GEMM, GEMM)
    products: dict[str, Callable[[], Any]] = {"fp32": lambda: a @ a}
    if cpu_has_bf16():
        b = a.bfloat16()
        products["bf16"] = lambda: b @ b
    if not cpu_flags() & VNNI:
        return products  # OpenVINO's product of whole numbers is then no faster than that in fp32, and no limit
    ov = import_openvino()
    op, square = ov.opset13, a.numpy()
    low, high = np.float32(-4), np.float32(4)
    given = op.parameter([GEMM, GEMM], ov.Type.f32)
    quantised = [
        op.fake_quantize(x, low, high, low, high, levels=levels)
        for x, levels in ((given, 256), (op.constant(square), 255))
    ]
    model = ov.Model([op.matmul(*quantised, False, False)], [given], "product")
    compiled = openvino_core().compile_model(model, "CPU", {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1})
    request = compiled.create_infer_request()
    products["int8"] = lambda: request.infer([square])
    return products


def build(name: str, frames: Frames) -> tuple[dict[str, ClipEncoder], Agreement, dict[str, str]]:
    """Return our encoder in every way that runs here, how int8 agrees with fp32, and what does not run, with reasons."""
    reference = make_clip_encoder(name, "fp32")
    encoders = {"torch fp32": reference, "openvino fp32": make_clip_encoder(name, "fp32", "openvino")}
    missing = {}
    for runtime in ("torch", "openvino"):
        if cpu_has_bf16():
            encoders[f"{runtime} bf16"] = make_clip_encoder(name, "bf16", runtime)
        else:
            missing[f"{runtime} bf16"] = "this processor has no bfloat16"
    tower = quantise(reference, frames, np.arange(len(frames)))
    encoders["openvino int8"] = quick = with_int8(reference, tower)
    model = make_reward("clip", reference, goal=GOAL, baseline=BASELINE, alpha=ALPHA)

    def score(embeddings: FloatArray) -> FloatArray:
        n = len(embeddings)
        return model.compute_reward(FrameBatch(np.zeros(n, np.int64), np.arange(n), embeddings=embeddings)).reward

    return encoders, judge(tower.reference, quick.encode_images(tower.frames), score), missing


def measure(name: str, frames: Frames, operations: float, library: Library, rounds: int, count: int) -> dict[str, Any]:
    """Return every figure of one encoder."""
    encoders, agreement, missing = build(name, frames)
    reference = VlmRm(library, encoders["torch fp32"])
    ways: dict[str, Callable[[Frames], FloatArray]] = {REFERENCE: reference}
    ways |= {way: ours(encoder) for way, encoder in encoders.items()}
    fit = encoders["torch fp32"].replicas[0].preprocess
    part = np.ascontiguousarray(frames[:count])
    own = np.ascontiguousarray(fit.fit(torch.from_numpy(part)).permute(0, 2, 3, 1).numpy())
    products = matrix_products()
    steps: dict[str, Callable[[], Any]] = {
        "open_clip's, PIL": lambda: [library.transform(Image.fromarray(frame)) for frame in part],
        "VLM-RM's, float": lambda: reference.preprocess(part),
        "ours, uint8": lambda: fit(torch.from_numpy(part)),
    }
    times: dict[str, list[float]] = {}
    found: dict[str, FloatArray] = {}
    for turn in range(rounds + 1):  # the first one warms up
        seen = {f"peak {fmt}": seconds_of(run) for fmt, run in products.items()}
        seen |= {f"step {step}": seconds_of(run) / count for step, run in steps.items()}
        for way, run in ways.items():
            start = time.process_time()
            found[way] = run(part)
            seen[f"way {way}"] = (time.process_time() - start) / count
        for way, encoder in encoders.items():
            seen[f"tower {way}"] = seconds_of(lambda encoder=encoder: encoder.encode_images(own)) / count  # type: ignore[misc]
        for key, value in seen.items() if turn else ():
            times.setdefault(key, []).append(value)
    peaks = {fmt: 2 * GEMM**3 / statistics.median(times[f"peak {fmt}"]) for fmt in products}
    rows = []
    for way in ways:
        over = [a / b for a, b in zip(times[f"way {REFERENCE}"], times[f"way {way}"], strict=True)]
        row: dict[str, Any] = {
            "way": way,
            "images_per_core_second": round(1 / statistics.median(times[f"way {way}"]), 2),
            "over_reference": round(statistics.median(over), 2),
            "over_reference_range": [round(min(over), 2), round(max(over), 2)],
            "reward_spearman_to_torch_fp32": round(spearman(found["torch fp32"], found[way]), 5),
        }
        if way in encoders:
            rate = 1 / statistics.median(times[f"tower {way}"])
            row["images_of_own_size_per_core_second"] = round(rate, 2)
            fmt = way.split()[1]
            row["share_of_gemm_peak"] = round(rate * operations / peaks[fmt], 3) if fmt in peaks else None
        rows.append(row)
    return {
        "gigaflop_per_image": round(operations / 1e9, 3),
        "frames_per_round": count,
        "rounds": rounds,
        "gemm_peak_giga_operations_per_core_second": {fmt: round(peak / 1e9, 1) for fmt, peak in peaks.items()},
        "ways": rows,
        "not_run": missing,
        "reward_spread": float(np.ptp(found[REFERENCE])),
        "int8": {
            "held_out_frames": agreement.frames,
            "centred_cosine": round(agreement.centred_cosine, 5),
            "reward_spearman": round(agreement.spearman, 5),
            "passes_the_gate": passes(agreement),
        },
        "preprocessing_images_per_core_second": {
            step: round(1 / statistics.median(times[f"step {step}"]), 1) for step in steps
        },
    }


def passes(agreement: Agreement) -> bool:
    """Return whether int8 would be taken."""
    try:
        agreement.check()
    except ValueError:
        return False
    return True


def show(console: Console, name: str, figures: dict[str, Any]) -> None:
    """Print the tables of one encoder."""
    table = Table(title=f"{name}, {figures['gigaflop_per_image']} GFLOP, frames of {SIDE} px", box=MARKDOWN)
    for head in (
        "way",
        "images / core-s",
        "x VLM-RM (range)",
        "own size: images / core-s",
        "of GEMM peak",
        "Spearman to torch fp32",
    ):
        table.add_column(head, justify="left" if head == "way" else "right", no_wrap=True)
    for row in figures["ways"]:
        low, high = row["over_reference_range"]
        ratio = f"{row['over_reference']:.2f} ({low:.2f}-{high:.2f})"
        own, share = row.get("images_of_own_size_per_core_second"), row.get("share_of_gemm_peak")
        cells = [f"{own:.1f}" if own else "", f"{share:.0%}" if share else ""]
        correlation = f"{row['reward_spearman_to_torch_fp32']:.4f}"
        table.add_row(row["way"], f"{row['images_per_core_second']:.1f}", ratio, *cells, correlation)
    for way, reason in figures["not_run"].items():
        table.add_row(way, reason)
    console.print(table)
    for key in ("gemm_peak_giga_operations_per_core_second", "preprocessing_images_per_core_second", "int8"):
        said = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in figures[key].items())
        console.print(f"{key.replace('_', ' ')}: {said}")


def verdicts(figures: dict[str, Any]) -> dict[str, bool | str]:
    """Return which claims of ViT-B-32 hold, or why one can't be asked here."""
    able = {"bf16": cpu_has_bf16(), "int8": bool(cpu_flags() & VNNI)}
    result: dict[str, bool | str] = {}
    for fmt, bar in BARS.items():
        rows = [row for row in figures["ways"] if row["way"].endswith(fmt)]
        key = f"{fmt} at least {bar} x VLM-RM"
        if not able[fmt]:
            result[key] = f"not asked: this processor has no {'bfloat16' if fmt == 'bf16' else 'VNNI'}"
            continue
        best = max(row["over_reference"] for row in rows)
        exact = fmt != "int8" or figures["int8"]["reward_spearman"] >= SPEARMAN_BAR
        result[key] = best >= bar and exact
        result[f"{fmt} at least {SHARE_BAR:.0%} of its peak"] = (
            max(row["share_of_gemm_peak"] for row in rows) >= SHARE_BAR
        )
    fp32 = max(row["share_of_gemm_peak"] for row in figures["ways"] if row["way"].endswith("fp32"))
    return result | {f"fp32 at least {SHARE_BAR:.0%} of its peak": fp32 >= SHARE_BAR}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", help=f"repeat for several; default: {'; '.join(ENCODERS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=16, help="timed in a round")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encoders.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights, which are known here
    torch.set_num_threads(1)
    console, names = Console(width=160), args.encoder or list(ENCODERS)
    # before the first picture: the counter imports Triton, which dies where one was rendered through EGL
    libraries = {name: Library(name) for name in names}
    sizes = {name: make_clip_encoder(name, "fp32").preprocess.size for name in names}
    operations = {name: count_operations(libraries[name], sizes[name]) for name in names}
    frames = render(STATES)
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.is_file() else {}
    met = True
    for name in names:
        about = machine(1)
        about["versions"] |= {package: version(package) for package in ("openvino", "nncf")}
        figures = measure(name, frames, operations[name], libraries[name], args.rounds, args.frames)
        show(console, name, figures)
        if name.startswith("ViT-B-32"):
            figures["claims"] = verdicts(figures)
            for claim, verdict in figures["claims"].items():
                console.print(f"{claim}: {({True: 'met', False: 'NOT met'}).get(verdict, verdict)}")  # type: ignore[call-overload]
            met &= False not in figures["claims"].values()
        console.print()
        command = f"python benchmarks/encoders.py --encoder '{name}' --rounds {args.rounds} --frames {args.frames}"
        result[name] = {"command": command, "machine": about, **figures}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
