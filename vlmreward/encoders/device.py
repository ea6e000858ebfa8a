"""One path for every device: upload, resize, normalise and run an image tower, in batches that fit.

A :class:`Replica` is a tower on one device. It prepares one batch while others are under way, and halves a batch that
does not fit into the device's memory, which it remembers. To :class:`TorchReplica` frames go as uint8 through two
pinned buffers and a copy stream of their own, so the copy of one batch overlaps the work on the batch before; the
resize happens on the device. On a CPU the same code runs without copies or streams. :class:`Replicas` splits frames
over several devices, one thread each. Other engines than PyTorch: ``runtime.py``.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vlmreward.encoders.preprocess import Preprocess, PreprocessConfig
from vlmreward.errors import ConfigError, NonFiniteError
from vlmreward.types import FloatArray, Frames

logger = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEFAULT_BATCH = {"cpu": 32, "cuda": 256}
MOST_BAD = 256  # frames on end without a finite embedding before that ends the run
# how PyTorch's allocators and cuBLAS say that there is no room, besides torch.OutOfMemoryError
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA out of memory")


def resolve_devices(device: str) -> list[torch.device]:
    """Return the devices that a setting names.

    Args:
        device: ``"auto"`` (every GPU, else the CPU), ``"cpu"``, ``"cuda"`` (every GPU), ``"cuda:1"``, or several
            with commas between.

    Raises:
        ConfigError: The text names no device, or one that this machine has not.
    """
    found: list[torch.device] = []
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in (part.strip() for part in str(device).split(",")):
        kind, _, number = name.partition(":")
        if name == "auto":
            found += [torch.device("cuda", i) for i in range(n_gpus)] or [torch.device("cpu")]
        elif name == "cpu":
            found.append(torch.device("cpu"))
        elif kind == "cuda" and (number.isdigit() or name == "cuda"):
            if n_gpus <= int(number or 0):
                raise ConfigError(
                    f"device {name!r} is not there, PyTorch sees {n_gpus} GPUs: use device=cpu or device=auto"
                )
            found += [torch.device(name)] if number else [torch.device("cuda", i) for i in range(n_gpus)]
        else:
            raise ConfigError(f"device must be auto, cpu, cuda or cuda:<number>, got {device!r}: choose one of them")
    return found


def cpu_has_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware (avx512_bf16 or AMX)."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):  # private in PyTorch, so they may go
        probe: Callable[[], bool] | None = getattr(torch.cpu, name, None)
        if probe is not None and probe():
            return True
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


def cpu_flags() -> set[str]:
    """Return what this processor's features are called in Linux; nothing elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text(errors="replace").split()) if cpuinfo.is_file() else set()


def choose_precision(devices: Sequence[torch.device], precision: Precision) -> Precision:
    """Return the number format of the image tower, the same on every device.

    Args:
        devices: Where the tower runs.
        precision: ``"auto"`` takes the fastest one that all devices compute in hardware.

    Returns:
        ``"fp32"``, ``"bf16"`` or ``"fp16"``.

    Raises:
        ConfigError: The format is unknown, is fp16 on a CPU, or is int8, which needs pictures to be calibrated on.
    """
    if precision == "int8":
        raise ConfigError(
            "precision int8 is calibrated on pictures, which train does: use another precision here, or in Python hand "
            "an encoder in fp32 to vlmreward.encoders.int8.quantise"
        )
    if precision != "auto" and precision not in DTYPES:
        known = ", ".join([*DTYPES, "int8"])
        raise ConfigError(f"precision must be auto, {known}, got {precision!r}: choose one of them")
    on_cpu = any(d.type == "cpu" for d in devices)
    if precision == "fp16" and on_cpu:
        raise ConfigError("precision fp16 is some 50 times slower on a CPU than fp32: use precision=auto")
    if precision != "auto":
        return precision
    formats: set[Precision] = {_fastest(d) for d in devices}
    if len(formats) == 1:
        return formats.pop()
    return "fp32" if on_cpu or "fp32" in formats else "fp16"  # every GPU with bf16 has fp16 too


def _fastest(device: torch.device) -> Precision:
    if device.type == "cpu":
        return "bf16" if cpu_has_bf16() else "fp32"
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:
        return "bf16"
    return "fp16" if major == 7 else "fp32"


def cast_tower(tower: torch.nn.Module, precision: Precision) -> torch.nn.Module:
    """Cast a tower's weights in place; batch norms stay in float32, for their running statistics.

    Args:
        tower: An image tower in float32.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    """
    tower.to(dtype=DTYPES[precision])
    for module in tower.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.float()
    # convolutions read channels-last a quarter faster in bf16, and a transformer does not care
    return tower.to(memory_format=torch.channels_last)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch means that a batch did not fit."""
    kinds = (getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError), torch.cuda.OutOfMemoryError)
    return isinstance(error, kinds) or any(text in str(error) for text in _OUT_OF_MEMORY)


class Uploader:
    """Moves uint8 frames to a device through two pinned buffers, so that one copy and one fill overlap.

    Args:
        device: Where the frames go.
        staged: Use the buffers; None: where the device is a GPU. Without them a CPU tensor shares the frames' memory.
    """

    def __init__(self, device: torch.device, staged: bool | None = None) -> None:
        self.device = device
        self._on_gpu = device.type == "cuda"
        self._staged = self._on_gpu if staged is None else staged
        self._buffers: list[torch.Tensor] = [torch.empty(0, dtype=torch.uint8)] * 2
        self._copied = [torch.cuda.Event(), torch.cuda.Event()] if self._on_gpu else []
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        self._turn = 0

    def __call__(self, frames: Frames) -> torch.Tensor:
        """Return the frames on the device, same shape; the copy may still be under way on the device's stream."""
        if not self._staged:
            if not (frames.flags.c_contiguous and frames.flags.writeable):
                frames = np.array(frames, order="C")  # torch takes neither negative strides nor read-only memory
            return torch.from_numpy(frames)
        self._turn = turn = 1 - self._turn
        if self._copied:
            self._copied[turn].synchronize()  # the last copy out of this buffer must be over before it is filled again
        if self._buffers[turn].numel() < frames.size:
            self._buffers[turn] = torch.empty(frames.size, dtype=torch.uint8, pin_memory=self._on_gpu)
        host = self._buffers[turn][: frames.size].view(frames.shape)
        np.copyto(host.numpy(), frames)
        if self._stream is None:
            return host.to(self.device, copy=True)
        with torch.cuda.stream(self._stream):
            moved = host.to(self.device, non_blocking=True)
            self._copied[turn].record(self._stream)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        moved.record_stream(current)  # its memory belongs to the copy stream: not to be reused before this one is done
        return moved


class Replica(ABC):
    """An image tower on one device, with its own remembered batch size.

    Args:
        preprocess: What the model wants.
        device: Where the tower is.
        batch_size: Largest number of frames at a time.
        lanes: Batches that the device computes side by side; few frames are spread over them.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device, batch_size: int, lanes: int = 1) -> None:
        self.preprocess = preprocess
        self.device = device
        self.batch_size = batch_size
        self.lanes = lanes
        self.upload = Uploader(device)
        self._lock = threading.Lock()  # the buffers serve one caller at a time

    @property
    def most_ahead(self) -> int:
        """Batches that are under way while the next one is prepared, so that every lane always has work."""
        return 2 * self.lanes - 1

    @abstractmethod
    def start(self, frames: Frames) -> Any:
        """Set one batch going, uint8, shape (N, H, W, 3), and return what :meth:`finish` takes."""

    @abstractmethod
    def finish(self, started: Any) -> FloatArray:
        """Wait for a batch, and return its unit-norm embeddings, float32, shape (N, D)."""

    def drain(self) -> None:  # noqa: B027  (PyTorch keeps what its kernels read)
        """Wait for batches that are under way and that nobody will finish, and let go of their frames."""

    def encode(self, frames: Frames) -> FloatArray:
        """Encode frames in batches.

        Args:
            frames: uint8, shape (N, H, W, 3), N > 0.

        Returns:
            Unit-norm embeddings, float32, shape (N, D).

        Raises:
            ConfigError: Not even one frame fits into the device's memory.
        """
        done: list[FloatArray] = []
        under_way: deque[Any] = deque()
        start = 0
        on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
        with self._lock, torch.inference_mode(), on_device:
            try:
                while start < len(frames):
                    size = min(self.batch_size, math.ceil(len(frames) / self.lanes))
                    batch = frames[start : start + size]
                    started = self._try(batch)
                    while under_way and (started is None or len(under_way) >= self.most_ahead):
                        done.append(self.finish(under_way.popleft()))
                    if started is None:
                        self._shrink(len(batch))
                        continue
                    under_way.append(started)
                    start += len(batch)
                done += [self.finish(started) for started in under_way]
            finally:
                self.drain()
        return np.concatenate(done)

    def _try(self, frames: Frames) -> Any:
        # None rather than the exception: its traceback would keep the failed batch's tensors alive
        try:
            return self.start(frames)
        except RuntimeError as e:
            if not is_out_of_memory(e):
                raise
            return None

    def _shrink(self, tried: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if tried <= 1:
            raise ConfigError(
                f"one frame does not fit into the memory of {self.device}: use a smaller encoder or another device"
            )
        self.batch_size = tried // 2
        logger.warning(
            "%d frames at a time do not fit into the memory of %s: going on with %d",
            tried,
            self.device,
            self.batch_size,
        )


class TorchReplica(Replica):
    """An image tower that PyTorch runs.

    Args:
        tower: Takes the output of ``preprocess``, returns features of shape (N, D) or a tuple that starts with them.
        preprocess: What the model wants, and in which number format.
        device: Where the tower is.
        batch_size: Largest number of frames at a time.
    """

    def __init__(
        self, tower: Callable[[torch.Tensor], Any], preprocess: Preprocess, device: torch.device, batch_size: int
    ) -> None:
        super().__init__(preprocess, device, batch_size)
        self.tower = tower

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return unit-norm embeddings, float32, shape (N, D), of preprocessed pixels."""
        features = self.tower(pixels)
        features = (features[0] if isinstance(features, tuple) else features).to(torch.float32)
        # no epsilon: an all-zero feature must show as not finite, not pass as an embedding
        return features / features.norm(dim=-1, keepdim=True)

    def start(self, frames: Frames) -> torch.Tensor:
        """Set one batch going, uint8, shape (N, H, W, 3), and return its embeddings, still on the device."""
        return self.forward(self.preprocess(self.upload(frames)))

    def finish(self, started: torch.Tensor) -> FloatArray:
        """Wait for a batch, and return its unit-norm embeddings, float32, shape (N, D)."""
        return started.cpu().numpy()


def make_replicas(
    tower: torch.nn.Module,
    config: PreprocessConfig,
    devices: Sequence[torch.device],
    precision: Precision,
    batch_size: int | None = None,
    wrap: Callable[[torch.nn.Module, torch.device], Callable[[torch.Tensor], Any]] = lambda tower, _: tower,
) -> list[TorchReplica]:
    """Put an image tower on every device, run by PyTorch.

    Args:
        tower: An image tower in float32; it is cast and moved in place.
        config: What the model wants.
        devices: One replica each.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        batch_size: Largest number of frames at a time on one device; None: 32 on a CPU, 256 on a GPU.
        wrap: What runs the tower of a device in its place.

    Raises:
        ConfigError: ``batch_size`` is less than 1.
    """
    check_batch_size(batch_size)
    tower = cast_tower(tower.eval().requires_grad_(False), precision)
    towers = [tower] + [copy.deepcopy(tower) for _ in devices[1:]]
    return [
        TorchReplica(wrap(t.to(d), d), Preprocess(config, DTYPES[precision]), d, batch_size or DEFAULT_BATCH[d.type])
        for t, d in zip(towers, devices, strict=True)
    ]


def check_batch_size(batch_size: int | None) -> None:
    """Check that a batch holds a frame.

    Raises:
        ConfigError: It does not.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}: give a positive number or null")


class Replicas:
    """The same image tower on one or several devices; frames are split over them.

    Args:
        replicas: One per device.
    """

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = list(replicas)
        # threads, not processes: the work is on the devices, and PyTorch lets go of the interpreter lock
        self._threads = ThreadPoolExecutor(len(replicas), "encoder") if len(replicas) > 1 else None
        self._any_finite, self._bad_on_end = False, 0

    def encode(self, frames: Frames) -> FloatArray:
        """Encode frames, each device a run of neighbouring ones.

        Args:
            frames: uint8, shape (N, H, W, 3), N > 0.

        Returns:
            Unit-norm embeddings, float32, shape (N, D), in the order of the frames; NaN where one is not finite, so
            that such a frame is left out and the run goes on.

        Raises:
            ConfigError: Not even one frame fits into a device's memory.
            NonFiniteError: Not one embedding has been finite so far, or for ``MOST_BAD`` frames on end: the tower is at
                fault and not a frame.
        """
        if self._threads is None:
            out = self.replicas[0].encode(frames)
        else:
            # a pure function of the number of frames, so a repeated call repeats every batch
            bounds = np.linspace(0, len(frames), len(self.replicas) + 1).round().astype(int)
            parts = [frames[a:b] for a, b in itertools.pairwise(bounds)]
            jobs = [
                self._threads.submit(replica.encode, part)
                for replica, part in zip(self.replicas, parts, strict=True)
                if len(part)
            ]
            out = np.concatenate([job.result() for job in jobs])
        bad = ~np.isfinite(out).all(axis=1)
        self._bad_on_end = self._bad_on_end + len(out) if bad.all() else 0
        self._any_finite |= not bad.all()
        if self._bad_on_end and (not self._any_finite or self._bad_on_end >= MOST_BAD):
            raise NonFiniteError(
                f"no image embedding of {self._bad_on_end} is finite: use encoder.precision=fp32, or check the weights"
            )
        out[bad] = np.nan
        return out
