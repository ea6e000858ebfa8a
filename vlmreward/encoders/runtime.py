"""Which engine runs the image tower: PyTorch, OpenVINO on a CPU, or CUDA graphs on a GPU (docs/runtimes.md).

PyTorch is the reference: the others must give its embeddings. OpenVINO is checked against it when it is built.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, get_args

import torch

from vlmreward.encoders.device import Precision, Replica, cpu_has_bf16, make_replicas
from vlmreward.encoders.preprocess import PreprocessConfig
from vlmreward.errors import ConfigError, ExportError
from vlmreward.registry import suggest

logger = logging.getLogger(__name__)

Runtime = Literal["auto", "torch", "openvino", "cuda_graphs"]
RUNTIMES = get_args(Runtime)
X86_64 = ("x86_64", "AMD64")


def choose_runtime(
    devices: Sequence[torch.device], runtime: Runtime, precision: Precision = "fp32", convolutional: bool = True
) -> Runtime:
    """Return the engine of the image tower.

    Args:
        devices: Where the tower runs.
        runtime: ``"auto"`` takes OpenVINO where it is installed on x86-64, for convolutional towers in fp32, and for
            all in bf16 where the processor has it; ``benchmarks/encoders.py`` times the engines side by side. It
            looks at what is there and times nothing, so that equal machines choose equally.
        precision: Of the tower, decided.
        convolutional: See :func:`is_convolutional`.

    Returns:
        ``"torch"``, ``"openvino"`` or ``"cuda_graphs"``.

    Raises:
        ConfigError: The name is unknown, or the engine does not run on these devices.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"unknown runtime {runtime!r}: {suggest(str(runtime), RUNTIMES)}")
    kinds = {device.type for device in devices}
    if runtime == "auto":
        faster = convolutional if precision == "fp32" else cpu_has_bf16()
        usable = kinds == {"cpu"} and platform.machine() in X86_64 and find_spec("openvino") is not None
        return "openvino" if faster and usable else "torch"
    needed = {"openvino": "cpu", "cuda_graphs": "cuda"}.get(runtime)
    if needed is not None and kinds != {needed}:
        names = ",".join(str(device) for device in devices)
        raise ConfigError(
            f"runtime {runtime} runs on device={needed} alone, the encoder's is {names}: use runtime=auto"
        )
    return runtime


def is_convolutional(tower: torch.nn.Module) -> bool:
    """Return whether an image tower has more convolutions than the one that cuts a picture into patches."""
    return sum(isinstance(module, torch.nn.Conv2d) for module in tower.modules()) > 1


def build_replicas(
    tower: torch.nn.Module,
    config: PreprocessConfig,
    devices: Sequence[torch.device],
    precision: Precision,
    batch_size: int | None,
    runtime: Runtime,
) -> tuple[Sequence[Replica], Runtime]:
    """Put an image tower on every device, in the engine that a setting asks for.

    Args:
        tower: An image tower in float32; it is taken over.
        config: What the model wants.
        devices: One replica each.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        batch_size: Largest number of frames at a time on one device; None: what the engine is fastest with.
        runtime: As in :func:`choose_runtime`.

    Returns:
        The replicas, and the engine that runs them.

    Raises:
        ConfigError: The engine is unknown or does not fit the devices, or ``batch_size`` is less than 1.
        DependencyNotInstalled: The engine is not installed.
        ExportError: The engine was asked for by name and can't take this tower.
    """
    chosen = choose_runtime(devices, runtime, precision, is_convolutional(tower))
    if chosen == "openvino":
        from vlmreward.encoders.openvino_tower import make_openvino_replicas

        try:
            return make_openvino_replicas(tower, config, devices, precision, batch_size), chosen
        except (ExportError, ImportError) as e:  # OpenVINO may be installed and not fit its own libraries
            if runtime != "auto":
                raise
            logger.warning("%s; going on with runtime=torch", " ".join(str(e).split()))
            chosen = "torch"
    if chosen == "cuda_graphs":
        from vlmreward.encoders.cuda_graphs import GraphedTower

        return make_replicas(tower, config, devices, precision, batch_size, GraphedTower), chosen
    return make_replicas(tower, config, devices, precision, batch_size), chosen
