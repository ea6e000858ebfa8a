"""An image tower in OpenVINO, on the CPU.

Resizing stays ours, so that the pixels are those of every other engine; normalisation is part of the exported graph,
which so takes uint8. Each thread is a stream of its own that works on a small batch by itself. Sizes of batches follow
from the number of frames and of streams, and every stream runs the same program, so equal frames in equal order give
equal bits whichever stream takes them.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch

from vlmreward.encoders.device import Precision, Replica, TorchReplica, check_batch_size
from vlmreward.encoders.int8_gate import centred_cosine
from vlmreward.encoders.preprocess import Preprocess, PreprocessConfig
from vlmreward.errors import ConfigError, ExportError
from vlmreward.optional import require_package
from vlmreward.types import FloatArray, Frames

OPENVINO_BATCH = 16  # frames at a time on one stream; larger ones would leave streams idle
HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}  # int8: of what is not quantised
# How OpenVINO's embeddings of a few pictures must agree with PyTorch's: mean cosine, both less their mean picture's ...
MIN_COSINE = {"fp32": 0.999, "bf16": 0.95}
MAX_DIFFERENCE = {"fp32": 2e-3, "bf16": 0.1}  # ... and largest difference of a value, of vectors of length 1
_TELEMETRY = "openvino_telemetry"


def import_openvino(name: str = "openvino") -> ModuleType:
    """Import OpenVINO or NNCF without what reports their use to their makers over the network, unless asked not to.

    Args:
        name: ``"openvino"`` or ``"nncf"``.

    Raises:
        DependencyNotInstalled: It is not installed.
    """
    silence = _TELEMETRY not in sys.modules
    if silence:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # for their imports it is not installed
    try:
        return require_package(name, "openvino")
    finally:
        if silence:
            del sys.modules[_TELEMETRY]


@cache
def openvino_core() -> Any:
    """Return the one ``openvino.Core`` of this process, which owns the CPU plugin and its threads."""
    return import_openvino().Core()


def export_tower(tower: torch.nn.Module, config: PreprocessConfig) -> Any:
    """Turn an image tower into an OpenVINO model.

    Args:
        tower: In float32 on the CPU; takes normalised pixels, returns features or a tuple that starts with them.
        config: What the tower wants.

    Returns:
        An ``openvino.Model`` from uint8 (N, height, width, 3) to features float32 (N, D), N as one likes.

    Raises:
        ExportError: OpenVINO can't take this tower.
        DependencyNotInstalled: OpenVINO is not installed.
    """
    ov = import_openvino()
    height, width = config.size
    example = torch.zeros(2, 3, height, width)
    try:
        with _root_log_kept(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of what does not change with the pixels
            model = ov.convert_model(_Features(tower), example_input=example, input=[-1, 3, height, width])
        steps = ov.preprocess.PrePostProcessor(model)
    except Exception as e:  # of whatever kind the tracer, the front end and the tower raise
        raise ExportError(f"OpenVINO can't take this image tower ({_first_line(e)}): use encoder.runtime=torch") from e
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    normalise = steps.input().preprocess().convert_element_type(ov.Type.f32)
    normalise.mean([255 * m for m in config.mean]).scale([255 * s for s in config.std])
    return steps.build()


@contextmanager
def _root_log_kept() -> Iterator[None]:
    """Undo what OpenVINO's conversion does to the log of the whole process: its level, a handler and a filter."""
    root = logging.getLogger()
    level, handlers, filters = root.level, root.handlers[:], root.filters[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters


class _Features(torch.nn.Module):
    """The first of what a tower returns."""

    def __init__(self, tower: torch.nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.tower(pixels)
        return features[0] if isinstance(features, tuple) else features


class OpenVinoReplica(Replica):
    """An image tower in OpenVINO, with one stream for each of PyTorch's threads at the time it is built.

    Args:
        model: From :func:`export_tower`, quantised or not.
        config: What the tower wants.
        precision: ``"fp32"`` or ``"bf16"``; ``"int8"`` for a quantised model.
        batch_size: Number of frames at a time on one stream; None: 16.

    Raises:
        ConfigError: OpenVINO does not compute in this precision on this processor.
    """

    def __init__(
        self, model: Any, config: PreprocessConfig, precision: Precision, batch_size: int | None = None
    ) -> None:
        check_batch_size(batch_size)
        ov = import_openvino()
        streams = torch.get_num_threads()
        settings = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "ENABLE_CPU_PINNING": False,  # the environments' processes want the cores too
        }
        compiled = openvino_core().compile_model(model, "CPU", settings)
        taken = compiled.get_property("INFERENCE_PRECISION_HINT")
        if taken != getattr(ov.Type, HINTS[precision]):
            raise ConfigError(f"OpenVINO does not compute in {precision} on this processor: use encoder.precision=auto")
        super().__init__(Preprocess(config), torch.device("cpu"), batch_size or OPENVINO_BATCH, streams)
        self._requests = [compiled.create_infer_request() for _ in range(self.most_ahead + 1)]
        # what each request reads: its input tensor shares the memory, and does not keep it alive
        self._pixels: list[Frames | None] = [None] * len(self._requests)
        self._tensor = ov.Tensor
        self._turn = 0

    def start(self, frames: Frames) -> int:
        """Set one batch going, uint8, shape (N, H, W, 3), and return the number of its request."""
        pixels = self.preprocess.fit(self.upload(frames)).permute(0, 2, 3, 1).contiguous().numpy()
        slot = self._turn
        self._turn = (slot + 1) % len(self._requests)
        self._settle(slot)  # at rest already, unless a second interrupt broke into drain()
        self._pixels[slot] = pixels
        self._requests[slot].set_input_tensor(self._tensor(pixels, shared_memory=True))
        self._requests[slot].start_async()
        return slot

    def finish(self, started: int) -> FloatArray:
        """Wait for a batch, and return its unit-norm embeddings, float32, shape (N, D)."""
        request = self._requests[started]
        request.wait()
        features = np.array(request.get_output_tensor().data, dtype=np.float32)
        with np.errstate(invalid="ignore", divide="ignore"):  # as in TorchReplica: an all-zero feature must show
            return features / np.linalg.norm(features, axis=1, keepdims=True)

    def drain(self) -> None:
        """Wait until no request reads frames any more, and let go of them."""
        for slot in range(len(self._requests)):
            self._settle(slot)

    def _settle(self, slot: int) -> None:
        with suppress(RuntimeError):  # of a batch whose call has failed already; a request repeats it when it is asked
            self._requests[slot].wait()
        self._pixels[slot] = None


def make_openvino_replicas(
    tower: torch.nn.Module,
    config: PreprocessConfig,
    devices: Sequence[torch.device],
    precision: Precision,
    batch_size: int | None = None,
) -> list[Replica]:
    """Export an image tower, and check that it computes what PyTorch computes.

    Args:
        tower: An image tower in float32.
        config: What the model wants.
        devices: All the CPU; one replica each.
        precision: ``"fp32"`` or ``"bf16"``.
        batch_size: Number of frames at a time on one stream; None: 16.

    Raises:
        ConfigError: ``batch_size`` is less than 1, or this processor does not compute in the precision.
        ExportError: The tower can't be exported, or its embeddings differ from PyTorch's.
        DependencyNotInstalled: OpenVINO is not installed.
    """
    tower = tower.eval().requires_grad_(False)
    model = export_tower(tower, config)
    replicas: list[Replica] = [OpenVinoReplica(model, config, precision, batch_size) for _ in devices]
    pictures = check_pictures(config)
    reference = TorchReplica(tower, Preprocess(config), torch.device("cpu"), len(pictures)).encode(pictures)
    ours = replicas[0].encode(pictures)
    cosine = difference = float("nan")
    if ours.shape == reference.shape:
        cosine, difference = centred_cosine(reference, ours), float(np.abs(reference - ours).max())
    least, most = MIN_COSINE[precision], MAX_DIFFERENCE[precision]
    # weights that are not finite are not the export's fault, and refused when they give no embedding
    if np.isfinite(reference).all() and not (cosine >= least and difference <= most):
        raise ExportError(
            f"OpenVINO's embeddings differ from PyTorch's, centred cosine {cosine:.4g} (at least {least}), by up to "
            f"{difference:.2g} (at most {most}): use encoder.runtime=torch"
        )
    return replicas


def check_pictures(config: PreprocessConfig) -> Frames:
    """Return pictures that a tower with channels, rows, columns or pictures in a wrong place takes for others.

    Returns:
        uint8, shape (7, *config.size, 3): fades of each colour in two directions, and noise. An export is traced with
        two, so that a number of pictures that got fixed would show.
    """
    height, width = config.size
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None, None], (height, width, 1))
    across = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (height, width, 1))
    fades = [fade * colour for fade in (down, across) for colour in np.eye(3)]
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    return np.stack([*fades, noise]).astype(np.uint8)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
