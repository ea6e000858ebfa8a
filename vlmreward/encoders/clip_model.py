"""An encoder around any model of open_clip that is built already: images, texts, an id and a licence."""

from __future__ import annotations

import copy
import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
import torch

from vlmreward.encoders.device import Precision, Replica, Replicas, choose_precision, resolve_devices
from vlmreward.encoders.preprocess import PreprocessConfig
from vlmreward.encoders.prompts import Tokenizer, tokenise
from vlmreward.encoders.runtime import Runtime, build_replicas
from vlmreward.errors import ConfigError, NonFiniteError
from vlmreward.types import FloatArray, Frames, check_frames

logger = logging.getLogger(__name__)

TEXT_BATCH = 64
CACHED_TEXTS = 4096  # at 4 KiB each
_NOT_COMMERCIAL = ("-nc", "noncommercial", "non-commercial", "amlr", "research")
_warned: set[str] = set()


class ClipEncoder:
    """A frozen model of open_clip's shape as an encoder.

    This is the seam for encoders that bring a model of their own. A subclass builds three things and hands them to
    ``super().__init__``, which takes the model over (casts, freezes and moves it; pass a copy to keep yours)::

        class OwnEncoder(ClipEncoder):
            def __init__(self, device="auto", precision="auto", batch_size=None, runtime="auto"):
                model = build()                       # .visual(pixels) -> features; .encode_text(tokens) -> features
                config = PreprocessConfig(size=(96, 96), resize_mode="squash")
                super().__init__(model, tokenizer, config, name="own", salt="own-1", device=device,
                                 precision=precision, batch_size=batch_size, licence="MIT", runtime=runtime)

    The image tower runs in the given precision, one replica per device. The text tower stays in float32 on the first
    device, and its results are cached. Equal frames in equal order give equal bits.

    Args:
        model: A module with ``visual`` (image tower, returns features or a tuple that starts with them) and
            ``encode_text``, with float32 weights.
        tokenizer: See :class:`vlmreward.encoders.prompts.Tokenizer`; None if the encoder is for images only.
        preprocess: How the image tower wants its pictures.
        name: Start of the id, for people.
        salt: Anything that changes embeddings and is not in the weights: architecture, activation, version.
        device: See :func:`vlmreward.encoders.device.resolve_devices`.
        precision: Of the image tower: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``. Auto is the fastest that the
            hardware has; networks with batch norms lose more by bf16 than transformers do, so measure those.
        batch_size: Largest number of frames at a time on one device; None: what the runtime is fastest with.
        licence: Of the weights; one that rules out commercial use gives one warning.
        runtime: Engine of the image tower: ``"auto"``, ``"torch"``, ``"openvino"`` (CPU) or ``"cuda_graphs"`` (GPU).
        optimise: Rewrites the model, in place, into one that computes the same faster; the id is that of the weights
            before it.

    Attributes:
        id: ``<name>-<hash>`` over weights, preprocessing and salt; the same in every runtime and floating-point
            precision, and another one for each int8 model.
        image_size: Side of the pictures that the tower takes, pixels (the longer one if they are not square).
        dim: Length of an embedding.
        licence: As given.
        precision: Of the image tower, decided.
        runtime: Of the image tower, decided.
        devices: Names of the devices in use.

    Raises:
        ConfigError: A setting is out of range, the device is not there, or the runtime can't take the model.
        DependencyNotInstalled: The runtime is not installed.
    """

    id: str
    image_size: int
    dim: int
    licence: str

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Tokenizer | None,
        preprocess: PreprocessConfig,
        *,
        name: str,
        salt: str = "",
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int | None = None,
        licence: str = "unknown",
        runtime: Runtime = "auto",
        optimise: Callable[[torch.nn.Module], None] | None = None,
    ) -> None:
        devices = resolve_devices(device)
        self.precision = choose_precision(devices, precision)
        self.devices = [str(d) for d in devices]
        self.preprocess = preprocess
        self.licence = licence
        self.image_size = max(preprocess.size)
        # before the rewriting and the cast: the hash is that of the weights as they were loaded
        self.id = f"{name}-{fingerprint(model, salt + preprocess.key())}"
        if optimise is not None:
            optimise(model)
        self._name = name
        self._tokenizer = tokenizer
        replicas, self.runtime = build_replicas(
            model.visual,  # type: ignore[arg-type]
            preprocess,
            devices,
            self.precision,
            batch_size,
            runtime,
        )
        if self.runtime == "openvino":
            model.visual = torch.nn.Identity()  # OpenVINO has a copy of its weights
        self._images = Replicas(replicas)
        self._model = model.eval().requires_grad_(False).to(devices[0])
        self._text_device = devices[0]
        self._texts: dict[str, FloatArray] = {}
        self._lock = threading.Lock()
        blank = np.zeros((1, *preprocess.size, 3), np.uint8)
        self.dim = int(self.replicas[0].encode(blank).shape[1])
        warn_licence(name, licence)

    @property
    def replicas(self) -> list[Replica]:
        """The image tower on each device."""
        return self._images.replicas

    @property
    def batch_sizes(self) -> list[int]:
        """Frames at a time on each device; smaller than asked for where a batch did not fit."""
        return [replica.batch_size for replica in self.replicas]

    def with_replicas(self, replicas: Sequence[Replica], id: str, precision: Precision, runtime: Runtime) -> Self:
        """Return this encoder with another image tower; texts and settings stay.

        Args:
            replicas: The tower on each device.
            id: Of the encoder with this tower.
            precision: Of the tower.
            runtime: Of the tower.
        """
        other = copy.copy(self)
        other._images = Replicas(replicas)
        other.id, other.precision, other.runtime = id, precision, runtime
        return other

    def encode_images(self, frames: Frames) -> FloatArray:
        """Encode frames.

        Args:
            frames: RGB images, uint8, shape (N, H, W, 3), of any height and width.

        Returns:
            Unit-norm embeddings, float32, shape (N, D); NaN in the rows of frames whose embedding is not finite.

        Raises:
            FramesError: The frames are empty, not uint8 or not (N, H, W, 3).
            ConfigError: Not even one frame fits into a device's memory.
            NonFiniteError: Embeddings have not been finite so far, or for long: weights or precision are at fault.
        """
        check_frames(frames)
        return self._images.encode(frames)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Encode prompts, in float32 whatever the precision of images.

        Args:
            texts: Prompts, at least one.

        Returns:
            Unit-norm embeddings, float32, shape (M, D).

        Raises:
            PromptError: There are no prompts, or one is empty or longer than the model's context.
            ConfigError: The encoder has no tokenizer.
            NonFiniteError: A value is not finite.
        """
        if self._tokenizer is None:
            raise ConfigError(f"encoder {self._name} has random weights and no tokenizer: use it for speed only")
        tokens = tokenise(self._tokenizer, texts, self._name)
        with self._lock:
            new = list({t: i for i, t in enumerate(texts) if t not in self._texts}.values())
            found = {texts[i]: row for i, row in zip(new, self._run_texts(tokens[new]), strict=True)}
            rows = [found[t] if t in found else self._texts[t] for t in texts]
            for text, row in found.items():
                if len(self._texts) >= CACHED_TEXTS:
                    del self._texts[next(iter(self._texts))]  # the oldest
                self._texts[text] = row
        return np.stack(rows)

    def _run_texts(self, tokens: torch.Tensor) -> Iterable[FloatArray]:
        for start in range(0, len(tokens), TEXT_BATCH):
            with torch.inference_mode():
                batch = tokens[start : start + TEXT_BATCH].to(self._text_device)
                features = self._model.encode_text(batch).to(torch.float32)  # type: ignore[operator]
                out = (features / features.norm(dim=-1, keepdim=True)).cpu().numpy()
            if not np.isfinite(out).all():
                raise NonFiniteError(f"a text embedding of encoder {self._name} is not finite: check the weights")
            yield from out


def fingerprint(model: torch.nn.Module, salt: str = "") -> str:
    """Return 16 hex digits that change when a weight, a shape, a name or the salt changes.

    Args:
        model: Its whole ``state_dict`` is hashed, on all cores.
        salt: Hashed first.
    """

    def digest(item: tuple[str, torch.Tensor]) -> bytes:
        name, tensor = item
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        head = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
        return hashlib.blake2b(flat.view(torch.uint8).numpy().data, key=hashlib.blake2b(head).digest()).digest()

    whole = hashlib.blake2b(salt.encode(), digest_size=8)
    with ThreadPoolExecutor() as threads:
        for part in threads.map(digest, sorted(model.state_dict().items())):
            whole.update(part)
    return whole.hexdigest()


def warn_licence(name: str, licence: str) -> None:
    """Warn once per encoder when its weights are not free for commercial use.

    Args:
        name: Of the encoder.
        licence: Of its weights.
    """
    if name not in _warned and any(word in licence.lower() for word in _NOT_COMMERCIAL):
        _warned.add(name)
        logger.warning("the weights of %s are not free for commercial use: their licence is %s", name, licence)
