"""What benchmarks/throughput.py compares: our ways to score frames, and the numbers of each environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vlmreward.encoders.device import cpu_has_bf16
from vlmreward.encoders.mini import PREPROCESS

NATIVE = "bf16" if cpu_has_bf16() else "fp32"  # what precision=auto takes on this processor
USUAL, SAME, FAST = "the usual way", "ours, the same pixels", "ours, fast preset"
RANDOM = ", random weights"
VIT, MINI = "ViT-B-32" + RANDOM, "mini"
TARGETS = {"humanoid": 4.0, "cartpole": 3.0}  # fast preset over the usual way


@dataclass(frozen=True)
class Ours:
    """One way to score with this package.

    Attributes:
        size: Width and height of the pictures, pixels.
        quality: ``"fast"`` or ``"fine"``.
        frames: Frames scored in one round.
        precision: Of the image tower.
        batching: False: the encoder takes one frame at a time.
        batched_preprocess: False: open_clip's PIL transform, picture by picture.
        overlap: False: the environments wait while a batch is encoded.
        deferred: False: the reward of a step is asked for at once, one encoder call for all environments.
    """

    size: tuple[int, int]
    quality: str
    frames: int
    precision: str = NATIVE
    batching: bool = True
    batched_preprocess: bool = True
    overlap: bool = True
    deferred: bool = True


@dataclass(frozen=True)
class Setting:
    """What is compared in one environment.

    Attributes:
        env_id: Ours.
        kwargs: Of our environment, besides the picture.
        usual_id: Gymnasium's.
        usual_kwargs: Of Gymnasium's environment.
        encoder: Which weights.
        usual_frames: Frames that the usual way scores in one round.
        n_envs: Of ours.
        encode_batch: Of ours; the command line's default of 256 would make a round too long here.
        ways: Ours, by name.
        states: States on which rewards of fine and fast pictures are compared.
    """

    env_id: str
    kwargs: dict[str, Any]
    usual_id: str
    usual_kwargs: dict[str, Any]
    encoder: str
    usual_frames: int
    n_envs: int
    encode_batch: int
    ways: dict[str, Ours]
    states: int


def make_ways(
    full: tuple[int, int], own: int, *, same: int, fast: int, fine: int, large: int, slow: int
) -> dict[str, Ours]:
    """Return our ways for one environment.

    Args:
        full: Width and height of the usual picture.
        own: Side of the encoder's picture.
        same: Frames per round at the same pixels, fine; of half as many in the row with PIL.
        fast: Frames per round of the fast preset.
        fine: With fine pictures of the encoder's size.
        large: With large fast pictures.
        slow: With a slower encoder.
    """
    preset, at_full = Ours((own, own), "fast", fast), Ours(full, "fine", same)
    without_bf16 = {"- without bf16 (fp32)": replace(preset, precision="fp32", frames=slow)}
    return {
        SAME: at_full,
        "- same pixels, PIL per frame instead of batched uint8 resize": replace(
            at_full, batched_preprocess=False, frames=same // 2
        ),
        FAST: preset,
        "- without the fast renderer (quality fine)": replace(preset, quality="fine", frames=fine),
        f"- without encoder-size pictures ({full[0]} x {full[1]})": replace(preset, size=full, frames=large),
        **(without_bf16 if NATIVE == "bf16" else {}),
        "- without batching (one frame per encoder call)": replace(preset, batching=False, frames=slow),
        "- without deferred scoring (one call per vec step)": replace(preset, deferred=False, frames=slow),
        "- without batched preprocessing (PIL per frame)": replace(preset, batched_preprocess=False, frames=slow),
        "- without the overlap thread (envs wait)": replace(preset, overlap=False),
    }


SETTINGS = {
    "humanoid": Setting(
        "vlmreward/Humanoid-v0",
        {},
        "Humanoid-v5",
        {"width": 480, "height": 480},
        VIT,
        usual_frames=6,
        n_envs=4,
        encode_batch=16,
        ways=make_ways((480, 480), 224, same=16, fast=48, fine=16, large=16, slow=16),
        states=48,
    ),
    "cartpole": Setting(
        "vlmreward/CartPole-v0",
        {},
        "CartPole-v1",
        {},
        MINI,
        usual_frames=60,
        n_envs=16,
        encode_batch=64,
        ways=make_ways((600, 400), PREPROCESS.size[0], same=64, fast=384, fine=256, large=64, slow=256),
        states=200,
    ),
}
