"""Films of a dot that moves, as a dataset of demonstrations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmreward.testing.fakes import PixelEnv
from vlmreward.types import Frames


def make_film(seed: int, action: int = 2, length: int = 16) -> tuple[Frames, npt.NDArray[np.float64]]:
    """Return a film of the dot of :class:`~vlmreward.testing.fakes.PixelEnv`, without the clock in its pictures.

    Args:
        seed: Of the reset.
        action: What is done at every step.
        length: Steps, T.

    Returns:
        Frames, uint8, shape (T + 1, 16, 16, 3), and positions in [0, 1], shape (T + 1,).
    """
    env = PixelEnv(length=length)
    env.reset(seed=seed)
    frames, places = [env.render()], [env.position]
    for _ in range(length):
        env.step(action)
        frames.append(env.render())
        places.append(env.position)
    film = np.stack(frames)
    film[..., 1] = 0
    return film, np.array(places)


def write_films(
    root: Path, seeds: Sequence[int] = (), films: Sequence[Frames] = (), success: Sequence[bool] = ()
) -> Path:
    """Write a dataset of the format ``folder``, whose episodes are films.

    Args:
        root: Its folder.
        seeds: Of films of :func:`make_film`.
        films: More of them.
        success: What is recorded of each episode; nothing where there is none.

    Returns:
        The folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, frames in enumerate([*(make_film(seed)[0] for seed in seeds), *films]):
        np.savez(root / f"{number}.npz", frames=frames)
        told = {"success": success[number]} if success else {}
        lines.append(json.dumps({"episode_id": str(number), "video": f"{number}.npz:frames", **told}) + "\n")
    (root / "episodes.jsonl").write_text("".join(lines), encoding="utf-8")
    return root
