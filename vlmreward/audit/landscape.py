"""Draw rewards along lines and planes through an environment's states, as VLM-RM does (arXiv 2310.12921)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vlmreward.audit.audit import View
from vlmreward.audit.sample import Array
from vlmreward.types import BoolArray, Encoder, FrameBatch, Frames, Surveyable, Sweep
from vlmreward.wrappers.capture_frames import capture_frame

LINE, PLANE = 81, 31
"""States along a line, and along each side of a plane."""

CURVES = 6
"""Variants in one figure at most, the best ones."""

BLOCK = 256


@dataclass(frozen=True)
class Landscape:
    """Rewards over a sweep.

    Attributes:
        sweep: The line or plane.
        values: Of each axis.
        rewards: By the variant's name, shape (len(values[0]),) or (len(values[1]), len(values[0])), in standard
            deviations from its mean over the audit's frames; NaN where a frame could not be scored.
        success: Where the task's predicate is true, same shape; None without a task.
    """

    sweep: Sweep
    values: tuple[Array, ...]
    rewards: Mapping[str, Array]
    success: BoolArray | None


def survey_landscape(
    env: gym.Env, sweep: Sweep, task: str | None, view: View, numbers: Sequence[int], encoders: Mapping[str, Encoder]
) -> Landscape:
    """Score the states of a sweep.

    Args:
        env: Whose ``unwrapped`` is :class:`vlmreward.types.Surveyable`.
        sweep: One of its.
        task: Whose success is marked.
        view: The audit's result on this look.
        numbers: Which of its variants to draw.
        encoders: By the names that the variants give them.
    """
    bare = env.unwrapped
    assert isinstance(bare, Surveyable)
    env.reset(seed=0)
    points = LINE if len(sweep.axes) == 1 else PLANE
    values = tuple(np.linspace(axis.low, axis.high, points) for axis in sweep.axes)
    grid = np.meshgrid(*values)  # the first axis runs along a row
    variants = [view.variants[i] for i in numbers]
    wanted = {v.encoder: encoders[v.encoder] for v in variants}
    rows: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in wanted}
    frames: list[Frames] = []
    success: list[bool] = []
    shown: list[bool] = []

    def encode() -> None:
        for name, encoder in wanted.items():
            rows[name].append(encoder.encode_images(np.stack(frames)))
        frames.clear()

    for point in zip(*(g.ravel().tolist() for g in grid), strict=True):
        bare.set_state(sweep.state_at(*point))
        success.append(task is not None and bare.judge(task)[0])
        frame, reason = capture_frame(env)
        shown.append(frame is not None and not reason)
        if shown[-1]:
            assert frame is not None
            frames.append(frame)
        if len(frames) == BLOCK:
            encode()
    if frames:
        encode()
    shape = grid[0].shape
    rewards = {}
    for number, v in zip(numbers, variants, strict=True):
        out = np.full(len(shown), np.nan)
        if any(shown):
            embeddings = np.concatenate(rows[v.encoder])
            steps = np.arange(len(embeddings))
            scored = v.model.compute_reward(FrameBatch(episode=steps, step=np.zeros_like(steps), embeddings=embeddings))
            out[np.flatnonzero(shown)] = np.where(scored.valid, scored.reward, np.nan)
        usual = view.scores[np.isfinite(view.scores[:, number]), number]
        spread = usual.std() if len(usual) else 0.0
        rewards[v.name] = ((out - usual.mean()) / spread if spread else out * np.nan).reshape(shape).squeeze()
    marks = np.array(success).reshape(shape).squeeze() if task is not None else None
    return Landscape(sweep, values, rewards, marks)


def draw_landscape(landscape: Landscape, title: str) -> bytes:
    """Return a figure as PNG: curves of several variants over a line, or a map of the first one over a plane.

    Names and title hold what users write: it is drawn as it stands, and never read as mathematics.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    axes = landscape.sweep.axes
    figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    if len(axes) == 1:
        shown = dict(list(landscape.rewards.items())[:CURVES])
        lines = [plot.plot(landscape.values[0], reward, linewidth=1.6)[0] for reward in shown.values()]
        plot.set_ylabel("reward, standard deviations")
        if len(landscape.rewards) > 1:
            legend = plot.legend(lines, ["name"] * len(lines), fontsize=7, frameon=False)
            for text, name in zip(legend.get_texts(), shown, strict=True):
                text.set(text=name, parse_math=False)  # given at once, a name with "_" in front would be left out
        if landscape.success is not None and landscape.success.any():
            low, high = plot.get_ylim()
            plot.fill_between(
                landscape.values[0], low, high, where=landscape.success, color="0.88", zorder=0, step="mid"
            )
            plot.set_ylim(low, high)
    else:
        name, reward = next(iter(landscape.rewards.items()))
        drawn = plot.pcolormesh(*landscape.values, reward, cmap="viridis", shading="nearest")
        figure.colorbar(drawn, label="reward, standard deviations")
        if landscape.success is not None and landscape.success.any() and not landscape.success.all():
            plot.contour(*landscape.values, landscape.success, levels=[0.5], colors="white", linewidths=1.5)
        plot.set_ylabel(_label(axes[1].name, axes[1].unit), parse_math=False)
        title = f"{title}: {name}"
    plot.set_xlabel(_label(axes[0].name, axes[0].unit), parse_math=False)
    plot.set_title(title, fontsize=9, parse_math=False)
    out = io.BytesIO()
    with warnings.catch_warnings():
        # a letter that the font lacks is drawn as a box: the page beside the figure has the name in full
        warnings.filterwarnings("ignore", r"Glyph \d+ |Matplotlib currently does not support", UserWarning)
        figure.savefig(out, format="png")
    return out.getvalue()


def _label(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name
