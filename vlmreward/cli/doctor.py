"""``vlmreward doctor``: what this machine can run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import refuse_words
from vlmreward.errors import VlmRewardError

State = Literal["ok", "note", "fail"]

REQUIRED = (
    "torch",
    "torchvision",
    "open-clip-torch",
    "stable-baselines3",
    "gymnasium",
    "mujoco",
    "hydra-core",
    "safetensors",
    "imageio-ffmpeg",
)
OPTIONAL = {
    "sb3-contrib": "contrib",
    "pygame": "classic",
    "openvino": "openvino",
    "nncf": "openvino",
}  # package -> extra
SUPPORT = {
    ("Linux", "x86_64"): ("ok", "supported"),
    ("Linux", "aarch64"): ("note", "not tested"),
    ("Darwin", "arm64"): ("note", "best effort: pictures through cgl, environments in processes by spawn"),
    ("Darwin", "x86_64"): ("note", "best effort: pictures through cgl, environments in processes by spawn"),
    ("Windows", "AMD64"): ("fail", "not supported directly: use WSL2"),
}
SHM_BYTES = 64e6  # a ring of 2 x 256 frames of 200 x 200 pixels
DISK_BYTES = 2e9


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: What was looked at.
        state: ``ok``; ``note``: works, with a limit; ``fail``: something will not run.
        words: What was found, and what to do.
    """

    what: str
    state: State
    words: str


def main(argv: list[str]) -> int:
    """Print the report; return 2 if something has to be repaired."""
    arguments = parse_arguments(argv)
    refuse_words("doctor", arguments)
    failed = 0
    for check in CHECKS:
        for finding in check():
            mark = {"ok": "ok  ", "note": "note", "fail": "FAIL"}[finding.state]
            print(f"{mark}  {finding.what}: {finding.words}", flush=True)
            failed += finding.state == "fail"
    if failed:
        print(f"vlmreward doctor: error: {failed} of the above must be repaired", file=sys.stderr)
        return 2
    return 0


def check_platform() -> list[Finding]:
    """Look at the operating system and Python."""
    key = platform.system(), platform.machine()
    state, words = SUPPORT.get(key, ("note", "not tested"))
    python = platform.python_version()
    good = sys.version_info >= (3, 11)
    return [
        Finding("platform", state, f"{key[0]} {key[1]}, {words}"),  # type: ignore[arg-type]
        Finding("python", "ok" if good else "fail", python if good else f"{python}: 3.11 or later is needed"),
    ]


def check_packages() -> list[Finding]:
    """Look at the installed versions."""
    found, missing = [], []
    for name in REQUIRED:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    findings = [Finding("packages", "ok", ", ".join(found))] if found else []
    if missing:
        findings.append(Finding("packages", "fail", f"not installed: {', '.join(missing)}: run pip install vlmreward"))
    for name, extra in OPTIONAL.items():
        try:
            findings.append(Finding(name, "ok", version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, "note", f"not installed: pip install 'vlmreward[{extra}]' if you need it"))
    return findings


def check_processor() -> list[Finding]:
    """Look at cores and at what speeds the encoder up."""
    from vlmreward.encoders.device import cpu_flags

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags, known = cpu_flags(), ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    speed = [name for name in known if name in flags]
    words = f"{cores} cores, {', '.join(speed) or 'no vector extensions known'}"
    return [Finding("processor", "ok", words)]


def check_device() -> list[Finding]:
    """Look for a GPU."""
    try:
        import torch
    except ImportError as e:
        return [Finding("GPU", "fail", f"torch can't be imported ({e})")]
    if not torch.cuda.is_available():
        return [Finding("GPU", "note", "none: encoders run on the processor")]
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [Finding("GPU", "ok", ", ".join(names))]


def check_runtime() -> list[Finding]:
    """Look at which engine encoders would run in, and in which precision."""
    from vlmreward.encoders.device import choose_precision, resolve_devices
    from vlmreward.encoders.runtime import X86_64, choose_runtime

    devices = resolve_devices("auto")
    precision = choose_precision(devices, "auto")
    convolutional, transformer = (choose_runtime(devices, "auto", precision, kind) for kind in (True, False))
    words = f"{convolutional} in {precision}"
    if transformer != convolutional:
        words += f", {transformer} for transformers"
    missing = devices[0].type == "cpu" and platform.machine() in X86_64 and find_spec("openvino") is None
    if missing:
        words += ": for OpenVINO run pip install 'vlmreward[openvino]'"
        return [Finding("encoder runtime", "note", words)]
    return [Finding("encoder runtime", "ok", words)]


def check_pictures() -> list[Finding]:
    """Draw a picture with MuJoCo in a child process."""
    from vlmreward.envs.mujoco.gl import ensure_gl

    try:
        return [Finding("pictures", "ok", f"MuJoCo draws through {ensure_gl()}")]
    except VlmRewardError as e:
        return [Finding("pictures", "fail", f"{e} (cartpole and mountaincar run without it)")]


def check_weights() -> list[Finding]:
    """Load the embedded encoder."""
    from vlmreward.encoders import make_encoder

    try:
        encoder = make_encoder("mini", device="cpu")
    except VlmRewardError as e:
        return [Finding("embedded encoder", "fail", str(e))]
    return [Finding("embedded encoder", "ok", encoder.id)]


def check_storage() -> list[Finding]:
    """Look at shared memory and the disk of the working directory."""
    findings = []
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        few = free < SHM_BYTES
        advice = ": frames go through a file in the temporary directory instead, or give the container --shm-size=1g"
        findings.append(
            Finding("/dev/shm", "note" if few else "ok", f"{free / 1e6:.0f} MB free{advice if few else ''}")
        )
    else:
        findings.append(Finding("/dev/shm", "note", "there is none: frames go through a file"))
    free = shutil.disk_usage(Path.cwd()).free
    few = free < DISK_BYTES
    words = f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    findings.append(Finding("disk", "note" if few else "ok", f"{words}{': a run needs some' if few else ''}"))
    return findings


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_platform,
    check_packages,
    check_processor,
    check_device,
    check_runtime,
    check_pictures,
    check_weights,
    check_storage,
)
