"""An image tower in whole numbers of 8 bits: post-training quantisation by NNCF, run by OpenVINO on the CPU.

The ranges of activations come from frames of the user's own environment; transformers are smoothed first (SmoothQuant,
arXiv 2211.10438, NNCF's own). A quantised tower is a value that can be written down: the network, and the held-out
frames with their embeddings in fp32 by which it is judged again wherever it is loaded, for processors differ in how
they multiply whole numbers. The form is safetensors around OpenVINO's XML and weights: reading it runs none of its
content, and operations that OpenVINO does not bring itself are refused.
"""

from __future__ import annotations

import hashlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.device import TorchReplica, cpu_flags
from vlmreward.encoders.int8_gate import split_frames
from vlmreward.encoders.openvino_tower import OpenVinoReplica, export_tower, import_openvino, openvino_core
from vlmreward.errors import ConfigError, ExportError, WeightsError
from vlmreward.types import BoolArray, FloatArray, Frames

FORMAT = "vlmreward-int8-2"
VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}  # processors that add products of 8-bit numbers in 32 bits
_TENSORS = ("xml", "weights", "frames", "reference", "episode", "judged")


@dataclass(frozen=True)
class Int8Tower:
    """A quantised image tower, and what it is judged by.

    Attributes:
        encoder: Id of the encoder that it was made from.
        xml: The network, in OpenVINO's form.
        weights: Its weights.
        frames: Held-out frames as the tower takes them, uint8, shape (N, height, width, 3).
        reference: Their embeddings in fp32, float32, shape (N, D).
        episode: Number of each one's episode, int64, shape (N,).
        judged: Which of them count, shape (N,); see :func:`vlmreward.encoders.int8_gate.split_frames`.
    """

    encoder: str
    xml: bytes
    weights: bytes
    frames: Frames
    reference: FloatArray
    episode: npt.NDArray[np.int64]
    judged: BoolArray

    @property
    def digest(self) -> str:
        """16 hex digits that change with the network or a weight."""
        return _digest(self.xml, self.weights)

    @property
    def content_digest(self) -> str:
        """16 hex digits that change with anything that is stored."""
        arrays = (self.frames, self.reference, self.episode, self.judged)
        judges = (np.ascontiguousarray(array).data for array in arrays)
        return _digest(self.encoder.encode(), self.xml, self.weights, *judges)

    def to_bytes(self) -> bytes:
        """Return the content of a file, safetensors."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "xml": np.frombuffer(self.xml, np.uint8),
            "weights": np.frombuffer(self.weights, np.uint8),
            "frames": self.frames,
            "reference": self.reference,
            "episode": self.episode,
            "judged": self.judged,
        }
        return save(tensors, {"format": FORMAT, "encoder": self.encoder, "digest": self.content_digest})

    @classmethod
    def load(cls, path: Path) -> Int8Tower:
        """Read what ``to_bytes`` wrote.

        Raises:
            WeightsError: The file is damaged, or something else.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                told = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in _TENSORS}
        except (SafetensorError, OSError) as e:  # a missing tensor too
            raise WeightsError(
                f"the int8 model {path} can't be read ({e}): it comes with the run, copy it again"
            ) from e
        network = {name: found.pop(name).tobytes() for name in ("xml", "weights")}
        tower = cls(told.get("encoder", ""), **network, **found)
        if told.get("format") != FORMAT or told.get("digest") != tower.content_digest:
            raise WeightsError(f"the int8 model {path} is damaged or of another version: copy it again")
        return tower


def _digest(*parts: Any) -> str:
    whole = hashlib.blake2b(digest_size=8)
    for part in parts:
        whole.update(hashlib.blake2b(part).digest())
    return whole.hexdigest()


def check_int8(device_names: list[str], runtime: str) -> None:
    """Check that int8 can run, before anything is computed.

    Args:
        device_names: As in ``ClipEncoder.devices``.
        runtime: The setting.

    Raises:
        ConfigError: The devices are not the CPU, or another runtime is asked for.
        DependencyNotInstalled: OpenVINO or NNCF is not installed.
    """
    if runtime not in ("auto", "openvino"):
        raise ConfigError(f"precision int8 is computed by runtime openvino, got {runtime!r}: use encoder.runtime=auto")
    if any(torch.device(name).type != "cpu" for name in device_names):
        raise ConfigError(f"precision int8 runs on device=cpu, got {','.join(device_names)}: use device=cpu")
    for package in ("openvino", "nncf"):
        import_openvino(package)


def quantise(encoder: ClipEncoder, frames: Frames, episode: npt.NDArray[np.int64]) -> Int8Tower:
    """Quantise an encoder's image tower; see :mod:`vlmreward.encoders.int8_gate` for what it must be judged by.

    Args:
        encoder: In fp32, runtime ``"torch"``, on the CPU.
        frames: Of the environment that it is meant for, uint8, shape (N, H, W, 3); a third calibrates.
        episode: Number of each frame's episode, int64, shape (N,).

    Returns:
        The quantised tower: the same frames give the same one.

    Raises:
        ConfigError: The encoder is another one, or there are too few frames.
        ExportError: OpenVINO or NNCF can't take this tower.
        DependencyNotInstalled: OpenVINO or NNCF is not installed.
    """
    replica = encoder.replicas[0]
    check_int8(encoder.devices, "openvino")
    if not isinstance(replica, TorchReplica) or encoder.precision != "fp32":
        raise ConfigError(
            f"int8 is made from an encoder with precision=fp32 and runtime=torch, got {encoder.precision} and "
            f"{encoder.runtime}: build it so"
        )
    assert isinstance(replica.tower, torch.nn.Module)
    fitted = fit_frames(encoder, frames)
    calibration, held_out, judged = split_frames(fitted, episode)
    with _quiet():
        model = _quantise(export_tower(replica.tower, encoder.preprocess), fitted[calibration])
    kept = np.ascontiguousarray(fitted[held_out])
    numbers = episode[held_out].astype(np.int64)
    return Int8Tower(encoder.id, *_write(model), kept, encoder.encode_images(kept), numbers, judged)


def fit_frames(encoder: ClipEncoder, frames: Frames) -> Frames:
    """Return frames, uint8, shape (N, H, W, 3), as an encoder's image tower takes them, (N, height, width, 3)."""
    replica = encoder.replicas[0]
    pixels = replica.preprocess.fit(replica.upload(frames))
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def with_int8(encoder: ClipEncoder, tower: Int8Tower) -> ClipEncoder:
    """Return an encoder with a quantised image tower in the place of its own; texts and settings stay.

    Args:
        encoder: The one that the tower was made from.
        tower: The quantised tower.

    Raises:
        WeightsError: The tower was made from another encoder, or can't be read.
    """
    if tower.encoder != encoder.id:
        raise WeightsError(
            f"the int8 model was made from encoder {tower.encoder}, this one is {encoder.id}: use the former"
        )
    try:
        model = openvino_core().read_model(tower.xml, tower.weights)
    except RuntimeError as e:
        raise WeightsError(f"OpenVINO can't read the int8 model ({' '.join(str(e).split())[-200:]})") from e
    replica = OpenVinoReplica(model, encoder.preprocess, "int8")
    return encoder.with_replicas([replica], f"{encoder.id}-int8-{tower.digest}", "int8", "openvino")


def _quantise(model: Any, pixels: Frames) -> Any:
    nncf = import_openvino("nncf")
    settings = nncf.quantization.advanced_parameters
    # only transformers have layer norms, MVN in OpenVINO's words
    transformer = any(op.get_type_name() == "MVN" for op in model.get_ops())
    # Without VNNI the products of two pairs of 8-bit numbers are added in 16 bits, which overflow: weights of 7 bits.
    fix = settings.OverflowFix.FIRST_LAYER if cpu_flags() & VNNI else settings.OverflowFix.ENABLE
    try:
        return nncf.quantize(
            model,
            nncf.Dataset([picture[None] for picture in pixels]),
            subset_size=len(pixels),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            advanced_parameters=settings.AdvancedQuantizationParameters(overflow_fix=fix),
        )
    except Exception as e:  # of whatever kind its many steps raise
        raise ExportError(f"NNCF can't quantise this image tower ({' '.join(str(e).split())[:200]})") from e


def _write(model: Any) -> tuple[bytes, bytes]:
    ov = import_openvino()
    for number, op in enumerate(model.get_ordered_ops()):  # their own names count what the process has done before
        op.set_friendly_name(f"{op.get_type_name()}_{number}")
    model.set_friendly_name("tower")
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder, "tower.xml"), Path(folder, "tower.bin")
        ov.serialize(model, xml, weights)
        return xml.read_bytes(), weights.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and logs of NNCF, and what PyTorch says to the imports it makes, off the terminal."""
    logs = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
