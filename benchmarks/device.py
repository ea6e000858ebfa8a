"""How fast PyTorch turns frames into embeddings on this machine, and where the time goes (engines: encoders.py).

    python benchmarks/device.py                      # ViT-B-32 with random weights, and mini; under a minute on a CPU
    python benchmarks/device.py --batches 1 64 256   # on a GPU

Throughput by batch size and precision through the whole path (upload, resize from ``--side``, normalise, forward),
and the split of one batch into those steps. Everything runs interleaved: each round takes every case once, so a busy
minute slows all of them alike; figures are medians over rounds. On a CPU the unit is CPU time of this process per
image, on one thread, which other work on the machine does not change; on a GPU it is wall time.
Weights do not matter for speed: nothing here says how good an encoder is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would count as work; before torch loads

import numpy as np
import open_clip
import torch

from vlmreward.encoders import make_encoder
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import Precision, TorchReplica, cpu_has_bf16, resolve_devices
from vlmreward.errors import VlmRewardError

ENCODERS: dict[str, dict[str, Any]] = {
    "ViT-B-32, random": {"name": "open_clip", "model": "ViT-B-32", "random_weights": True, "runtime": "torch"},
    "mini": {"name": "mini", "runtime": "torch"},
}


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """Describe what was measured on, without names of hosts or users."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "logical_cpus": os.cpu_count(),
        "cpu_has_bf16": cpu_has_bf16(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "measured_on": device.type,
        "torch_threads": threads,
        "load_average_at_start": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
    }


def clock(device: torch.device) -> float:
    """Return CPU seconds of this process, or on a GPU wall seconds once its work is done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def steps(replica: TorchReplica, frames: np.ndarray, device: torch.device) -> dict[str, float]:
    """Return the seconds of each step of one batch, each waited for."""
    marks = [clock(device)]
    with torch.inference_mode():
        moved = replica.upload(frames)
        marks.append(clock(device))
        fitted = replica.preprocess.fit(moved)
        marks.append(clock(device))
        pixels = replica.preprocess.normalise(fitted)
        marks.append(clock(device))
        replica.forward(pixels).cpu()
        marks.append(clock(device))
    return {
        name: after - before
        for name, before, after in zip(("upload", "resize", "normalise", "forward"), marks, marks[1:], strict=False)
    }


def build(device: torch.device, precisions: list[Precision]) -> dict[tuple[str, Precision], ClipEncoder]:
    """Build every encoder in every precision; one that is not there is named and left out."""
    built: dict[tuple[str, Precision], ClipEncoder] = {}
    for label, settings in ENCODERS.items():
        for precision in precisions:
            own = {k: v for k, v in settings.items() if k != "name"}
            try:
                encoder = make_encoder(settings["name"], device=str(device), precision=precision, **own)
            except VlmRewardError as e:
                print(f"without {label}: {e}")
                break
            assert isinstance(encoder, ClipEncoder)
            built[label, precision] = encoder
    return built


def measure(
    encoders: dict[tuple[str, Precision], ClipEncoder],
    batches: list[int],
    side: int,
    rounds: int,
    device: torch.device,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Time every case in every round.

    Returns:
        Rows of throughput, and rows of the split of the largest batch.
    """
    frames = np.random.default_rng(0).integers(0, 256, (max(batches), side, side, 3), dtype=np.uint8)
    whole: dict[tuple[str, Precision, int], list[float]] = {}
    split: dict[tuple[str, Precision], list[dict[str, float]]] = {}
    for turn in range(rounds + 1):  # the first one warms up
        for (label, precision), encoder in encoders.items():
            replica = encoder.replicas[0]
            assert isinstance(replica, TorchReplica)
            for batch in batches:
                replica.batch_size = batch
                start = clock(device)
                encoder.encode_images(frames[:batch])
                if turn:
                    whole.setdefault((label, precision, batch), []).append(clock(device) - start)
            seconds = steps(replica, frames[: max(batches)], device)
            if turn:
                split.setdefault((label, precision), []).append(seconds)
    throughput = [
        {
            "encoder": label,
            "precision": precision,
            "batch": batch,
            "ms_per_image": round(1000 * statistics.median(times) / batch, 3),
            "images_per_second": round(batch / statistics.median(times), 2),
        }
        for (label, precision, batch), times in whole.items()
    ]
    shares = [
        {"encoder": label, "precision": precision, "batch": max(batches)}
        | {f"{k}_ms": round(1000 * statistics.median(t[k] for t in times) / max(batches), 3) for k in times[0]}
        for (label, precision), times in split.items()
    ]
    return throughput, shares


def table(rows: list[dict[str, Any]], say: Callable[[str], None] = print) -> None:
    """Print rows under their keys."""
    if not rows:
        return
    texts = [list(rows[0])] + [[str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in texts) for i in range(len(texts[0]))]
    for line in texts:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    say("")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:<number>; one device is measured")
    parser.add_argument("--batches", type=int, nargs="+", help="frames at a time; 1 8 32, on a GPU 1 32 256")
    parser.add_argument("--side", type=int, default=480, help="height and width of the frames, pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch on the CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "device.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = resolve_devices(args.device)[0]
    precisions: list[Precision] = ["fp32", "bf16"] if device.type == "cpu" else ["fp32", "fp16", "bf16"]
    batches = args.batches or ([1, 8, 32] if device.type == "cpu" else [1, 32, 256])
    described = machine(device, args.threads)
    throughput, split = measure(build(device, precisions), batches, args.side, args.rounds, device)
    unit = "CPU time of the process" if device.type == "cpu" else "wall time"
    print(f"{described['cpu']}, {described['gpus'] or 'no GPU'}: {unit}, frames of {args.side} px\n")
    table(throughput)
    print("one batch, ms per image and step")
    table(split)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    numbers = " ".join(map(str, batches))
    result = {
        "command": f"python benchmarks/device.py --device {args.device} --batches {numbers} --side {args.side} "
        f"--rounds {args.rounds} --threads {args.threads}",
        "unit": unit,
        "machine": described,
        "side": args.side,
        "throughput": throughput,
        "split_ms_per_image": split,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
