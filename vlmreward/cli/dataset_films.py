"""Episodes of a dataset as films: decoded, encoded, and with what is known to be true of them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmreward.audit.pixels import thumbnails
from vlmreward.audit.progress_readings import Film
from vlmreward.cli.embedded_dataset import LEAST_FRAMES
from vlmreward.data.dataset import Episode, EpisodeDataset, Undecodable
from vlmreward.errors import ConfigError, DatasetError
from vlmreward.types import Encoder, FloatArray, Frames

ENCODE_BATCH = 64

Array = npt.NDArray[np.float64]


def draw_episodes(dataset: EpisodeDataset, count: int, seed: int) -> list[Episode]:
    """Return up to ``count`` episodes, drawn by the seed, in the dataset's order.

    Raises:
        DatasetError: None is long enough.
    """
    long = [episode for episode in dataset.episodes if episode.frames >= LEAST_FRAMES]
    if not long:
        raise DatasetError(f"{dataset.root} has no episode of at least {LEAST_FRAMES} frames: give another")
    chosen = np.random.default_rng([seed, 19]).permutation(len(long))[:count]
    return [long[place] for place in sorted(chosen.tolist())]


def load_film(
    dataset: EpisodeDataset,
    episode: Episode,
    camera: str,
    instruction: str,
    encoders: Mapping[str, Encoder],
    every: int,
    truth: Path | None,
) -> Film | None:
    """Decode and encode an episode; None where too little of it can be.

    Args:
        dataset: Opened.
        episode: One of its episodes.
        camera: Whose pictures.
        instruction: What was to be done.
        encoders: By name.
        every: Of so many frames one is looked at, the last one among them.
        truth: File of :func:`vlmreward.cli.collect.write_truth`, or None.
    """
    wanted = set(range(episode.frames - 1, -1, -every))
    kept = [
        (number, picture)
        for number, picture in enumerate(dataset.frames(episode, camera))
        if number in wanted and not isinstance(picture, Undecodable)
    ]
    if len(kept) < LEAST_FRAMES:
        return None
    frames, step = np.stack([picture for _, picture in kept]), np.array([number for number, _ in kept], np.int64)
    embeddings = {name: _encode(encoder, frames) for name, encoder in encoders.items()}
    fine = np.logical_and.reduce([np.isfinite(x).all(axis=1) for x in embeddings.values()])
    if fine.sum() < LEAST_FRAMES:
        return None
    frames, step = frames[fine], step[fine]
    progress, done = (None, None) if truth is None else read_truth(truth, episode.index, step)
    return Film(
        episode.index,
        instruction,
        episode.success,
        frames,
        step,
        thumbnails(frames),
        {name: x[fine] for name, x in embeddings.items()},
        progress,
        done,
    )


def _encode(encoder: Encoder, frames: Frames) -> FloatArray:
    return np.concatenate(
        [encoder.encode_images(frames[i : i + ENCODE_BATCH]) for i in range(0, len(frames), ENCODE_BATCH)]
    )


def find_truth(given: str | None, dataset: EpisodeDataset) -> Path | None:
    """Return the file of what is true of every frame: the user's, or the one that ``collect`` wrote beside a dataset.

    Raises:
        ConfigError: There is none where the user says.
    """
    if given is not None:
        if not Path(given).is_file():
            raise ConfigError(f"no truth at {given}: give the .truth.npz file of vlmreward collect, or leave it out")
        return Path(given)
    beside = dataset.root.with_name(f"{dataset.root.name}.truth.npz")
    return beside if beside.is_file() else None


def read_truth(path: Path, episode: int, step: npt.NDArray[np.int64]) -> tuple[Array | None, Array | None]:
    """Return true progress and success of some frames of an episode, shape (F,) each; None where nobody knows.

    Raises:
        DatasetError: The file can't be read, or holds nothing of a frame.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mine = file["episode"] == episode
            frame, known = file["frame"][mine], [file[name][mine] for name in ("progress", "success")]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise DatasetError(f"{path} can't be read as the truth of a dataset ({e}): give the one of collect") from e
    place = {number: row for row, number in enumerate(frame.tolist())}
    missing = [number for number in step.tolist() if number not in place]
    if missing:
        raise DatasetError(f"{path} holds nothing of frame {missing[0]} of episode {episode}: is it of this dataset?")
    rows = [place[number] for number in step.tolist()]
    progress, success = (values[rows].astype(np.float64) for values in known)
    return (None if np.isnan(progress).any() else progress), (None if np.isnan(success).any() else success)
