"""Batched preprocessing against open_clip's own transform, which works on one PIL picture at a time."""

from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from vlmreward.encoders.preprocess import (
    Preprocess,
    PreprocessConfig,
    crop_or_pad,
    resize,
    resize_in_float,
    resize_plan,
)
from vlmreward.errors import ConfigError

MODES = ("shortest", "longest", "squash")
SHAPES = [(240, 320), (133, 207), (207, 133), (97, 96), (31, 17), (96, 96), (2, 300)]


def by_open_clip(frames, config):
    transform: Any = image_transform_v2(
        PreprocessCfg(
            size=config.size,
            mean=config.mean,
            std=config.std,
            interpolation=config.interpolation,
            resize_mode=config.resize_mode,
            fill_color=config.fill_color,
        ),
        is_train=False,
    )
    return torch.stack([transform(Image.fromarray(f)) for f in frames])


def steps_of_255(a, b, config):
    return (a - b).abs() * 255 * torch.tensor(config.std).view(1, 3, 1, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(96, 96), (64, 112)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixels_are_those_of_open_clip(frames, mode, interpolation, size, shape):
    config = PreprocessConfig(
        size=size,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
        interpolation=interpolation,
        resize_mode=mode,
        fill_color=30,
    )
    pictures = frames(2, *shape)
    planned = resize_plan(shape[0], shape[1], config)
    # newer versions of Pillow resize the height first where that is less work; ours, like older ones, the width
    height_first = planned[0] * shape[1] < shape[0] * planned[1]
    if not height_first:
        pictures[1] = np.random.default_rng(1).integers(0, 256, (*shape, 3))  # noise is the hardest to resize
    ours = Preprocess(config)(torch.from_numpy(pictures))
    theirs = by_open_clip(pictures, config)
    assert ours.shape == theirs.shape
    difference = steps_of_255(ours, theirs, config)
    assert difference.max() <= (3.01 if height_first else 2.01)
    assert difference.mean() < (0.3 if height_first else 0.02)


def test_float_resize_rounds_as_the_uint8_one_does(frames):
    pictures = torch.from_numpy(np.concatenate([frames(2, 333, 517), frames(1, 333, 517, seed=5)[:, ::-1].copy()]))
    planar = pictures.permute(0, 3, 1, 2)
    for interpolation in ("bicubic", "bilinear"):
        for size in ((96, 96), (333, 96), (400, 600), (96, 517)):
            on_cpu = resize(planar, size, interpolation).float()
            elsewhere = resize_in_float(planar, size, interpolation)
            assert elsewhere.dtype == torch.float32
            assert (elsewhere == elsewhere.round()).all()
            difference = (on_cpu - elsewhere).abs()
            assert difference.max() <= 2
            assert difference.mean() < 0.02


def test_frames_of_the_right_size_are_only_normalised():
    config = PreprocessConfig(size=(5, 5), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0), resize_mode="squash")
    frame = np.zeros((1, 5, 5, 3), np.uint8)
    frame[0, 1, 2] = (255, 51, 102)
    out = Preprocess(config)(torch.from_numpy(frame))
    assert out[0, :, 0, 0].tolist() == pytest.approx([-1, -1, 0], abs=1e-6)
    assert out[0, :, 1, 2].tolist() == pytest.approx([1, (0.2 - 0.25) / 0.25, 0.4], abs=1e-6)


def test_result_has_the_asked_dtype_and_the_frames_are_not_written_to(frames):
    pictures = frames(2, 48, 48)
    before = pictures.copy()
    out = Preprocess(PreprocessConfig(size=(48, 48)), torch.bfloat16)(torch.from_numpy(pictures))
    assert out.dtype == torch.bfloat16
    exact = Preprocess(PreprocessConfig(size=(48, 48)))(torch.from_numpy(pictures))
    assert torch.equal(out, exact.bfloat16())  # normalised in float32, cast afterwards
    assert np.array_equal(pictures, before)


@pytest.mark.parametrize(
    ("shape", "mode", "planned"),
    [
        ((480, 640), "shortest", (96, 128)),
        ((640, 480), "shortest", (128, 96)),
        ((100, 151), "shortest", (96, 144)),  # 144.96 is cut down, not rounded
        ((480, 640), "longest", (72, 96)),
        ((480, 640), "squash", (96, 96)),
    ],
)
def test_resize_plan_by_hand(shape, mode, planned):
    assert resize_plan(shape[0], shape[1], PreprocessConfig(size=(96, 96), resize_mode=mode)) == planned


def test_odd_padding_goes_to_the_bottom_and_the_right():
    out = crop_or_pad(torch.full((1, 3, 2, 5), 9, dtype=torch.uint8), (5, 4), fill=7)
    assert out[0, 0].tolist() == [[7] * 4, [9] * 4, [9] * 4, [7] * 4, [7] * 4]


def test_config_from_open_clips_own_form():
    config = PreprocessConfig.from_mapping(
        {"size": 64, "mode": "RGB", "mean": [0, 0, 0], "std": (1, 1, 1), "interpolation": "random", "fill_color": None}
    )
    assert config == PreprocessConfig(size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic")


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (0, 5)},
        {"std": (0.2, 0.0, 0.2)},
        {"mean": (0.5,)},
        {"resize_mode": "stretch"},
        {"interpolation": "nearest"},
        {"fill_color": 256},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PreprocessConfig(**settings)


def test_every_setting_changes_the_key():
    changes = [
        {},
        {"size": (96, 96)},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"fill_color": 1},
    ]
    assert len({PreprocessConfig(**c).key() for c in changes}) == len(changes)
