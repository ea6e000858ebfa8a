"""From uint8 frames to what an image tower takes, a whole batch at a time and on the frames' own device.

The result is that of open_clip's own transform (PIL, one picture at a time) to within two steps of 255: see
``tests/encoders/test_preprocess.py``. On a CPU the resize works on uint8; on a GPU, whose kernels know no uint8,
it works on float32 in two passes that are rounded as the uint8 one rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F

from vlmreward.errors import ConfigError

ResizeMode = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]

# Part of every encoder's id: raise it when the pixels that come out of this module change.
VERSION = 1


@dataclass(frozen=True)
class PreprocessConfig:
    """How a model wants its pictures; the same settings as open_clip's, taken from the model.

    Attributes:
        size: Height and width of the tower's input, pixels.
        mean: Mean of each channel, in [0, 1] units, subtracted.
        std: Standard deviation of each channel, in [0, 1] units, divided by.
        interpolation: ``"bicubic"`` or ``"bilinear"``, antialiased both.
        resize_mode: ``"shortest"``: shorter side to size, then centre crop (CLIP). ``"longest"``: longer side to
            size, then pad. ``"squash"``: both sides to size, whatever the aspect ratio (SigLIP).
        fill_color: Value of padding, 0 to 255.

    Raises:
        ConfigError: A value is out of range.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"preprocess size must be (height, width) in pixels, got {self.size}: give two numbers")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"preprocess mean and std must hold three numbers, std > 0, got {self.mean} and {self.std}: "
                "give one number for each of R, G, B"
            )
        for key, value, known in (
            ("interpolation", self.interpolation, get_args(Interpolation)),
            ("resize_mode", self.resize_mode, get_args(ResizeMode)),
        ):
            if value not in known:
                raise ConfigError(f"preprocess {key} must be one of {', '.join(known)}, got {value!r}: choose one")
        if not 0 <= self.fill_color <= 255:
            raise ConfigError(f"preprocess fill_color must be in [0, 255], got {self.fill_color}: give a grey value")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> PreprocessConfig:
        """Build from open_clip's own form: ``size`` one number or two, lists for tuples, other keys ignored.

        Args:
            settings: E.g. ``model.visual.preprocess_cfg`` of an open_clip model.

        Raises:
            ConfigError: A value is out of range.
        """
        fields = {k: settings[k] for k in cls.__dataclass_fields__ if settings.get(k) is not None}
        for key, length in (("size", 2), ("mean", 3), ("std", 3)):
            if key in fields:
                value = fields[key]
                fields[key] = tuple(value) if isinstance(value, Sequence) else (value,) * length
        if fields.get("interpolation") == "random":
            fields["interpolation"] = "bicubic"  # open_clip: random while training, bicubic afterwards
        return cls(**fields)

    def key(self) -> str:
        """Return a text that differs between any two configs that give different pixels."""
        return f"v{VERSION} {sorted(asdict(self).items())}"


def resize_plan(height: int, width: int, config: PreprocessConfig) -> tuple[int, int]:
    """Return the height and width that a picture is resized to, before any crop or pad.

    Args:
        height: Of the picture, pixels.
        width: Of the picture, pixels.
        config: The tower's input.
    """
    target_h, target_w = config.size
    if config.resize_mode == "squash":
        return target_h, target_w
    if config.resize_mode == "shortest" and target_h == target_w:
        # torchvision's rule for one side: the longer one is cut down, not rounded
        if height <= width:
            return target_h, int(target_h * width / height)
        return int(target_w * height / width), target_w
    pick = min if config.resize_mode == "shortest" else max
    ratio = pick(height / target_h, width / target_w)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _interpolation(config: PreprocessConfig) -> str:
    # open_clip's transform for non-square inputs of mode "shortest" is bicubic whatever the config says
    square = config.size[0] == config.size[1]
    return config.interpolation if square or config.resize_mode != "shortest" else "bicubic"


def resize(frames: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resize with antialiasing.

    Args:
        frames: uint8, shape (N, 3, H, W).
        size: Height and width of the result, pixels.
        interpolation: ``"bicubic"`` or ``"bilinear"``.

    Returns:
        Shape (N, 3, *size), values 0 to 255: uint8 on a CPU, float32 with whole numbers elsewhere.
    """
    if tuple(frames.shape[-2:]) == size:
        return frames
    if frames.device.type == "cpu":
        return F.interpolate(frames, size=size, mode=interpolation, antialias=True, align_corners=False)
    return resize_in_float(frames, size, interpolation)


def resize_in_float(frames: torch.Tensor, size: tuple[int, int], interpolation: str) -> torch.Tensor:
    """Resize as :func:`resize` does, for devices without uint8 kernels: width first, rounded after each pass."""
    out = frames.to(torch.float32)
    for shape in ((out.shape[-2], size[1]), size):
        if tuple(out.shape[-2:]) != shape:
            out = F.interpolate(out, size=shape, mode=interpolation, antialias=True, align_corners=False)
            out = out.round_().clamp_(0, 255)
    return out


def crop_or_pad(frames: torch.Tensor, size: tuple[int, int], fill: int) -> torch.Tensor:
    """Pad both sides to at least the size, then cut out the centre.

    Args:
        frames: Shape (N, 3, H, W).
        size: Height and width of the result, pixels.
        fill: Value of padding, 0 to 255.

    Returns:
        Shape (N, 3, *size).
    """
    missing = [max(0, want - have) for want, have in zip(size, frames.shape[-2:], strict=True)]
    if any(missing):
        (down, right) = missing
        # the odd row or column goes to the bottom or the right
        frames = F.pad(frames, (right // 2, right - right // 2, down // 2, down - down // 2), value=float(fill))
    top = round((frames.shape[-2] - size[0]) / 2)
    left = round((frames.shape[-1] - size[1]) / 2)
    return frames[:, :, top : top + size[0], left : left + size[1]]


class Preprocess:
    """Turns uint8 frames into the input of one image tower.

    Args:
        config: What the model wants.
        dtype: Of the result; the arithmetic is float32 in any case.
    """

    def __init__(self, config: PreprocessConfig, dtype: torch.dtype = torch.float32) -> None:
        self.config = config
        self.dtype = dtype
        # (x / 255 - mean) / std, in one multiplication and one addition
        self._scale = torch.tensor([1 / (255 * s) for s in config.std]).view(1, 3, 1, 1)
        self._shift = torch.tensor([-m / s for m, s in zip(config.mean, config.std, strict=True)]).view(1, 3, 1, 1)

    def fit(self, frames: torch.Tensor) -> torch.Tensor:
        """Resize, crop and pad.

        Args:
            frames: uint8, shape (N, H, W, 3).

        Returns:
            Shape (N, 3, *size), values 0 to 255, uint8 or float32 with whole numbers.
        """
        # a permuted view: NHWC memory is what the CPU's resize is fastest on
        planar = frames.permute(0, 3, 1, 2)
        size = resize_plan(planar.shape[-2], planar.shape[-1], self.config)
        out = resize(planar, size, _interpolation(self.config))
        return crop_or_pad(
            out, self.config.size, 0 if self.config.resize_mode == "shortest" else self.config.fill_color
        )

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Subtract the mean and divide by the standard deviation in float32, then cast.

        Args:
            pixels: Shape (N, 3, H, W), values 0 to 255.

        Returns:
            Same shape, of this object's dtype, channels last in memory.
        """
        if self._scale.device != pixels.device:
            self._scale, self._shift = self._scale.to(pixels.device), self._shift.to(pixels.device)
        out = pixels.to(torch.float32, memory_format=torch.channels_last, copy=True)
        out = out.mul_(self._scale).add_(self._shift)
        return out.to(self.dtype)

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the tower's input, shape (N, 3, *size), for frames uint8, shape (N, H, W, 3)."""
        return self.normalise(self.fit(frames))
