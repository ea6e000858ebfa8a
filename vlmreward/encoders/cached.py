"""An encoder that looks into an embedding store first, and encodes what is not there."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.encoders.embedding_store import EmbeddingStore
from vlmreward.encoders.frame_hash import distinct, hash_frames
from vlmreward.encoders.store_folder import Dtype, StoreMeta
from vlmreward.types import Encoder, FloatArray, Frames, Keys, check_frames


class CachedEncoder:
    """An encoder that encodes a frame once ever.

    An embedding is always returned as it is stored, the first time too: equal frames give equal bits, in this run and
    in any later one. The encoder's other attributes (``precision``, ``devices``, ...) are passed on.

    Args:
        encoder: Encodes what is new.
        store: Of this encoder in its present precision and runtime.

    Attributes:
        id: The encoder's.
        image_size: The encoder's.
        dim: The encoder's.
        licence: The encoder's.
        store: As given.
    """

    id: str
    image_size: int
    dim: int
    licence: str

    def __init__(self, encoder: Encoder, store: EmbeddingStore) -> None:
        self._encoder, self.store = encoder, store
        self.id, self.image_size, self.dim, self.licence = encoder.id, encoder.image_size, encoder.dim, encoder.licence
        self._frames = self._encoded = 0
        self._lock = threading.Lock()  # of the counts

    def __getattr__(self, name: str) -> Any:
        """Return what else the encoder has."""
        if name.startswith("_"):  # looked for while a copy is made, before there is an encoder to ask
            raise AttributeError(name)
        return getattr(self._encoder, name)

    def encode_images(self, frames: Frames) -> FloatArray:
        """Look frames up, and encode those that are not stored; equal ones once.

        Args:
            frames: RGB images, uint8, shape (N, H, W, 3).

        Returns:
            Unit-norm embeddings, float32, shape (N, D). A row that is not finite or not of unit norm is never stored
            and stands as the encoder gave it, NaN where it is not finite.

        Raises:
            FramesError: The frames are empty, not uint8 or not (N, H, W, 3).
            StorageError: The store can't be written.
            VlmRewardError: What the encoder raises.
        """
        check_frames(frames)
        return self.encode_keyed(frames, hash_frames(frames))

    def encode_keyed(self, frames: Frames, keys: Keys) -> FloatArray:
        """Do the same with frames whose keys are known: uint64, shape (N, 2), as ``hash_frames`` gives them."""
        first, index = distinct(keys)
        keys = keys[first]
        missing = np.flatnonzero(self.store.find(keys) < 0)
        if len(missing):
            self.store.refresh()  # another process may have met them
            missing = missing[self.store.find(keys[missing]) < 0]
        out = np.empty((len(keys), self.dim), np.float32)
        if len(missing):
            new = np.array(self._encoder.encode_images(frames[first[missing]]), np.float32)
            new[~np.isfinite(new).all(axis=1)] = np.nan
            self.store.add(keys[missing], new)
            out[missing] = new
        places = self.store.find(keys)
        out[places >= 0] = self.store.read(places[places >= 0])
        with self._lock:
            self._frames += len(frames)
            self._encoded += len(missing)
        return out[index]

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return the encoder's unit-norm embeddings of prompts, float32, shape (M, D)."""
        return self._encoder.encode_texts(texts)

    def stats(self) -> dict[str, int]:
        """Return counts: ``frames`` asked for, those ``encoded``, and ``hits``: stored, or equal to one of the call."""
        with self._lock:
            return {"frames": self._frames, "hits": self._frames - self._encoded, "encoded": self._encoded}

    def state_dict(self) -> dict[str, int]:
        """Return the counts, for a run that is resumed."""
        return self.stats()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on counting from what ``state_dict`` returned."""
        with self._lock:
            self._frames, self._encoded = int(state["frames"]), int(state["encoded"])


def open_cached(encoder: Encoder, cache: str | Path, dtype: Dtype = "float16") -> CachedEncoder:
    """Give an encoder the store that is its own among those of a folder.

    Args:
        encoder: Encodes what is new.
        cache: The folder of all stores; made if it is not there. It holds one for each encoder, precision and
            runtime (which an encoder's ``id`` does not tell) and ``dtype``.
        dtype: In which embeddings are stored: ``"float16"``, or ``"float32"`` for the very bits that the encoder gave.

    Raises:
        ConfigError: There is no such dtype, or the store's folder belongs to another encoder.
        StorageError: The store is damaged, or can't be made or written.
    """
    precision, runtime = (getattr(encoder, name, None) for name in ("precision", "runtime"))
    meta = StoreMeta(encoder.id, precision, encoder.dim, dtype, runtime)
    return CachedEncoder(encoder, EmbeddingStore(Path(cache), meta))
