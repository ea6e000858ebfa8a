"""What holds for every encoder built on a model of open_clip's shape, whatever its weights."""

import copy
import logging
from functools import lru_cache
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from vlmreward.encoders import clip_model
from vlmreward.encoders.clip_model import ClipEncoder, fingerprint
from vlmreward.encoders.preprocess import PreprocessConfig
from vlmreward.errors import ConfigError, FramesError, NonFiniteError, PromptError
from vlmreward.types import Encoder

HALF = (0.5, 0.5, 0.5)


def build(name="tiny-vit", seed=0) -> Any:
    torch.manual_seed(seed)
    return open_clip.create_model(name, load_weights=False).eval()


def encoder(model: Any = None, preprocess=None, **kwargs: Any) -> Any:
    model = build() if model is None else model
    settings: dict[str, Any] = {"name": "tiny", "device": "cpu", "precision": "fp32", "runtime": "torch"} | kwargs
    return ClipEncoder(model, tokenizer(), preprocess or PreprocessConfig(size=size_of(model)), **settings)


def size_of(model: Any) -> Any:
    side = model.visual.image_size
    return side if isinstance(side, tuple) else (side, side)


@lru_cache
def tokenizer():
    return open_clip.tokenizer.SimpleTokenizer(context_length=16)


def centred_cosine(a, b):
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet", "tiny-siglip"])
def test_embeddings_are_those_of_the_model_fed_by_open_clips_transform(frames, name):
    model = build(name)
    reference = copy.deepcopy(model)
    transform: Any = open_clip.image_transform(
        model.visual.image_size, is_train=False, mean=HALF, std=HALF, resize_mode="squash"
    )
    config = PreprocessConfig(size=size_of(model), mean=HALF, std=HALF, resize_mode="squash")
    ours = encoder(model, config)
    pictures = frames(5)
    with torch.no_grad():
        pixels = torch.stack([transform(Image.fromarray(f)) for f in pictures])
        images = reference.encode_image(pixels, normalize=True).numpy()
        texts = reference.encode_text(open_clip.tokenize(["a cart", "a pole"], 16), normalize=True).numpy()
    assert ours.encode_images(pictures) == pytest.approx(images, abs=2e-3)  # pixels differ by up to a step of 255
    assert centred_cosine(ours.encode_images(pictures), images).min() > 0.999
    assert ours.encode_texts(["a cart", "a pole"]) == pytest.approx(texts, abs=1e-6)
    assert isinstance(ours, Encoder)
    assert (ours.dim, ours.image_size) == (32, config.size[0])


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet", "tiny-siglip"])
def test_a_batch_equals_its_frames_one_by_one_and_a_repetition_is_bitwise(frames, name):
    ours = encoder(build(name), batch_size=4)
    pictures = frames(11)
    whole = ours.encode_images(pictures)
    assert whole.dtype == np.float32
    assert np.linalg.norm(whole, axis=1) == pytest.approx(np.ones(11), abs=1e-6)
    assert whole == pytest.approx(
        np.concatenate([ours.encode_images(pictures[i : i + 1]) for i in range(11)]), abs=1e-5
    )
    assert np.array_equal(whole, ours.encode_images(pictures))
    assert np.array_equal(whole, encoder(build(name), batch_size=4).encode_images(pictures))


def test_several_devices_give_what_one_gives(frames):
    pictures = frames(11)
    split = encoder(device="cpu,cpu", batch_size=4)
    assert split.devices == ["cpu", "cpu"]
    assert split.encode_images(pictures) == pytest.approx(encoder(batch_size=4).encode_images(pictures), abs=1e-5)
    assert np.array_equal(split.encode_images(pictures), split.encode_images(pictures))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet", "tiny-siglip"])
def test_bf16_is_close_and_leaves_texts_and_id_alone(frames, name):
    exact, quick = encoder(build(name)), encoder(build(name), precision="bf16")
    pictures = frames(16)
    assert quick.precision == "bf16"
    assert quick.encode_images(pictures).dtype == np.float32
    assert np.linalg.norm(quick.encode_images(pictures), axis=1) == pytest.approx(np.ones(16), abs=1e-6)
    assert not np.array_equal(quick.encode_images(pictures), exact.encode_images(pictures))
    assert (quick.encode_images(pictures) * exact.encode_images(pictures)).sum(1).min() > 0.999
    assert np.array_equal(quick.encode_texts(["a cart"]), exact.encode_texts(["a cart"]))
    assert quick.id == exact.id


def test_a_batch_that_does_not_fit_is_halved_through_the_whole_encoder(frames):
    class Hungry(torch.nn.Module):
        def __init__(self, tower):
            super().__init__()
            self.tower = tower

        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.tower(x)

    model = build()
    model.visual = Hungry(model.visual)
    ours = encoder(model, PreprocessConfig(size=(48, 48)), batch_size=16)
    pictures = frames(20)
    assert ours.encode_images(pictures) == pytest.approx(encoder().encode_images(pictures), abs=1e-5)
    assert ours.batch_sizes == [2]


def test_towers_that_return_a_tuple_are_understood(frames):
    class Tuple(torch.nn.Module):
        def __init__(self, tower):
            super().__init__()
            self.tower = tower

        def forward(self, x):
            return self.tower(x), "tokens"

    model = build()
    model.visual = Tuple(model.visual)
    pictures = frames(2)
    ours = encoder(model, PreprocessConfig(size=(48, 48)))
    assert np.array_equal(ours.encode_images(pictures), encoder().encode_images(pictures))


def test_id_changes_with_weights_preprocessing_and_salt_and_with_nothing_else():
    def changed(edit):
        model = build()
        with torch.no_grad():
            edit(model)
        return encoder(model).id

    same = encoder().id
    assert same == encoder(batch_size=3, device="cpu,cpu").id
    assert same.startswith("tiny-")
    config = PreprocessConfig(size=(48, 48))
    ids = [
        same,
        changed(lambda m: m.visual.conv1.weight[0, 0, 0, 0].add_(1e-6)),
        changed(lambda m: m.positional_embedding[3, 3].mul_(-1)),
        changed(lambda m: m.logit_scale.add_(1)),
        encoder(build(seed=1)).id,
        encoder(preprocess=PreprocessConfig(size=(48, 48), mean=HALF)).id,
        encoder(preprocess=PreprocessConfig(size=(48, 48), resize_mode="squash")).id,
        encoder(preprocess=config, salt="quick_gelu").id,
        encoder(name="other").id,
    ]
    assert len(set(ids)) == len(ids)


def test_fingerprint_sees_names_and_shapes():
    class Two(torch.nn.Module):
        def __init__(self, **tensors):
            super().__init__()
            for name, tensor in tensors.items():
                self.register_buffer(name, tensor)

    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    variants = [Two(a=a, b=b), Two(a=b, b=a), Two(a=a, c=b), Two(a=a.view(2, 1), b=b), Two(a=a.double(), b=b), Two(a=a)]
    prints = [fingerprint(v) for v in variants]
    assert len(set(prints)) == len(prints)
    assert fingerprint(Two(b=b, a=a)) == prints[0]  # the order of registration is not part of a model
    assert all(len(p) == 16 for p in prints)
    fingerprint(Two(empty=torch.empty(0), scalar=torch.tensor(3), flag=torch.tensor([True])))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.float32),
    ],
    ids=["empty", "one picture", "channels first", "float"],
)
def test_wrong_frames_are_refused(bad):
    with pytest.raises(FramesError, match="frames must be uint8"):
        encoder().encode_images(bad)


def test_texts_are_encoded_once(monkeypatch):
    ours = encoder()
    first = ours.encode_texts(["a cart", "a pole", "a cart"])
    assert np.array_equal(first[0], first[2])
    calls = []
    run = ours._model.encode_text
    monkeypatch.setattr(ours._model, "encode_text", lambda tokens: calls.append(len(tokens)) or run(tokens))
    again = ours.encode_texts(["a pole", "a cart"])
    assert calls == []
    assert np.array_equal(again, first[[1, 0]])
    ours.encode_texts(["a pole", "a car", "a car"])
    assert calls == [1]


def test_many_texts_go_in_batches_and_the_cache_stays_bounded(monkeypatch):
    monkeypatch.setattr(clip_model, "CACHED_TEXTS", 10)
    monkeypatch.setattr(clip_model, "TEXT_BATCH", 8)
    ours = encoder()
    texts = [f"pole at {i} degrees" for i in range(30)]
    assert ours.encode_texts(texts).shape == (30, 32)
    assert len(ours._texts) == 10
    assert ours.encode_texts(texts)[3] == pytest.approx(encoder().encode_texts(texts[3:4])[0], abs=1e-6)


def test_empty_and_long_prompts_are_refused():
    ours = encoder()
    with pytest.raises(PromptError, match="is empty for encoder tiny: say the goal in words"):
        ours.encode_texts(["a cart", "  "])
    with pytest.raises(PromptError, match="is 22 tokens long, encoder tiny reads 16: shorten it"):
        ours.encode_texts(["pole " * 20])


def test_weights_that_give_no_finite_text_are_refused():
    model = build()
    model.ln_final.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="a text embedding of encoder tiny is not finite"):
        encoder(model).encode_texts(["a cart"])


def test_without_a_tokenizer_texts_are_refused():
    ours = ClipEncoder(build(), None, PreprocessConfig(size=(48, 48)), name="tiny", device="cpu")
    with pytest.raises(ConfigError, match="no tokenizer"):
        ours.encode_texts(["a cart"])


def test_a_licence_against_commercial_use_warns_once(caplog, monkeypatch):
    monkeypatch.setattr(clip_model, "_warned", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert encoder(licence="CC-BY-NC-4.0").licence == "CC-BY-NC-4.0"
        encoder(name="free", licence="MIT")
    assert [r.getMessage() for r in caplog.records] == [
        "the weights of tiny are not free for commercial use: their licence is CC-BY-NC-4.0"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet", "tiny-siglip"])
def test_gpu_equals_cpu(frames, name):
    pictures = frames(20, 333, 517)
    on_cpu, on_gpu = encoder(build(name)), encoder(build(name), device="cuda", batch_size=8)
    assert on_gpu.encode_images(pictures) == pytest.approx(on_cpu.encode_images(pictures), abs=1e-3)
    assert on_gpu.encode_texts(["a cart"]) == pytest.approx(on_cpu.encode_texts(["a cart"]), abs=1e-3)
    assert np.array_equal(on_gpu.encode_images(pictures), on_gpu.encode_images(pictures))
