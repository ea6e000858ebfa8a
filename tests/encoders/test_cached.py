from __future__ import annotations

import copy
import threading
import types

import numpy as np
import pytest

from vlmreward.encoders import frame_hash
from vlmreward.encoders.cached import CachedEncoder, open_cached
from vlmreward.encoders.clip_model import ClipEncoder
from vlmreward.encoders.preprocess import PreprocessConfig
from vlmreward.errors import ConfigError, FramesError
from vlmreward.rewards.clip import ClipReward
from vlmreward.testing.fakes import LinearReward, ProjectionEncoder
from vlmreward.types import Encoder, FrameBatch
from vlmreward.wrappers.scoring import ROW_DTYPE, FrameScorer, gather


class Strange(ProjectionEncoder):
    """Gives a frame that begins with 1, 2 or 3 no embedding, an infinite one, or one of half the length."""

    def encode_images(self, frames):
        rows = super().encode_images(frames)
        kind = frames[:, 0, 0, 0]
        rows[kind == 1], rows[kind == 2, 0] = np.nan, np.inf
        rows[kind == 3] *= 0.5
        return rows


class Drifting(ProjectionEncoder):
    """Gives equal frames another embedding in every call, as low precision does in batches of other sizes."""

    def encode_images(self, frames):
        rows = super().encode_images(frames)
        rows[:, 0] += 1e-2 * len(self.batches)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def noise(n, seed=0, side=4):
    frames = np.random.default_rng(seed).integers(10, 256, (n, side, side, 3), dtype=np.uint8)
    frames[:, 0, 0, 0] = 10 + np.arange(n)
    return frames


def test_known_frame_is_never_encoded_again(tmp_path):
    frames = noise(10)
    inner = ProjectionEncoder()
    encoder = open_cached(inner, tmp_path)
    assert isinstance(encoder, Encoder)
    first = encoder.encode_images(frames[:6])
    second = encoder.encode_images(frames[[9, 2, 2, 0, 8, 9]])
    assert inner.batches == [6, 2]  # 9 and 8; the others are known, and 9 is in the call twice
    assert encoder.stats() == {"frames": 12, "hits": 4, "encoded": 8}
    other = ProjectionEncoder()
    again = open_cached(other, tmp_path)
    np.testing.assert_array_equal(again.encode_images(frames[:6]), first)
    np.testing.assert_array_equal(again.encode_images(frames[[9, 2, 2, 0, 8, 9]]), second)
    assert other.batches == []
    assert again.stats() == {"frames": 12, "hits": 12, "encoded": 0}


def test_frames_that_are_scored_are_hashed_once(tmp_path, monkeypatch):
    """Whoever gathers them has their keys, and hands them on."""
    frames, digest, hashed = noise(7)[[0, 1, 2, 3, 0, 1, 6]], frame_hash.xxhash.xxh3_128_digest, []

    def count(*args):
        hashed.append(1)
        return digest(*args)

    monkeypatch.setattr(frame_hash, "xxhash", types.SimpleNamespace(xxh3_128_digest=count))
    rows = np.zeros(7, ROW_DTYPE)
    rows["slot"] = np.arange(7)
    scorer = FrameScorer(encoder := open_cached(ProjectionEncoder(), tmp_path), LinearReward(), 1)
    for times in (1, 2):
        raw = scorer.score(rows, gather(rows, frames)).raw
        assert len(hashed) == 7 * times
    assert encoder.stats() == {"frames": 10, "hits": 5, "encoded": 5}
    np.testing.assert_allclose(raw, ProjectionEncoder().encode_images(frames) @ LinearReward().direction, atol=1e-3)


def test_embedding_is_that_of_the_frame_within_the_rounding(tmp_path):
    frames = noise(200)
    want = ProjectionEncoder().encode_images(frames)
    order = np.random.default_rng(1).permutation(200)
    again = np.concatenate([order, order[::-3], order[5:6].repeat(4)])  # each once, and many more than once
    encoder = open_cached(ProjectionEncoder(), tmp_path)
    encoder.encode_images(frames[order[:70]])
    got = encoder.encode_images(frames[again])
    assert (got.dtype, got.shape) == (np.float32, (len(again), 24))
    assert np.linalg.norm(got - want[again], axis=1).max() <= 2**-11 + 24**0.5 * 2**-25
    np.testing.assert_allclose(np.linalg.norm(got.astype(np.float64), axis=1), 1, atol=1e-6)


def test_float32_gives_the_very_bits(tmp_path):
    frames = noise(20)
    want = ProjectionEncoder().encode_images(frames)
    for _ in range(2):
        got = open_cached(ProjectionEncoder(), tmp_path, "float32").encode_images(frames)
        assert got.tobytes() == want.tobytes()


def test_first_embedding_is_the_one_whoever_encodes(tmp_path):
    """Two encoders that have the same store open and drift apart: what either returns is what was stored first."""
    frames = noise(6)
    inner = Drifting()
    a, b = open_cached(Drifting(), tmp_path), open_cached(inner, tmp_path)
    b.encode_images(frames[4:])
    first = a.encode_images(frames[:4])
    drifted = [Drifting() for _ in range(2)]
    drifted[1].encode_images(frames)
    assert not np.allclose(*(encoder.encode_images(frames) for encoder in drifted), atol=1e-3)
    np.testing.assert_array_equal(b.encode_images(frames[:4]), first)
    np.testing.assert_array_equal(a.encode_images(frames), b.encode_images(frames))
    assert inner.batches == [2]


def test_race_is_won_by_the_first_to_store(tmp_path):
    """Another process stores a frame while this one encodes it."""
    frames = noise(3)
    far_off = Drifting()
    far_off.batches += [0] * 50
    rival = open_cached(far_off, tmp_path)

    class Slow(Drifting):
        def encode_images(self, frames):
            rows = super().encode_images(frames)
            rival.encode_images(frames)
            return rows

    encoder = open_cached(Slow(), tmp_path)
    got = encoder.encode_images(frames)
    np.testing.assert_array_equal(got, rival.encode_images(frames))
    assert np.abs(got - ProjectionEncoder().encode_images(frames)).max() > 0.1


def test_rows_that_are_no_unit_vectors_are_given_back_and_never_stored(tmp_path):
    frames = noise(5)
    frames[1:4, 0, 0, 0] = 1, 2, 3
    inner = Strange()
    encoder = open_cached(inner, tmp_path)
    for _ in range(2):
        rows = encoder.encode_images(frames)
        assert np.isnan(rows[1:3]).all()
        np.testing.assert_allclose(np.linalg.norm(rows[[0, 3, 4]], axis=1), [1, 0.5, 1], atol=1e-5)
    assert inner.batches == [5, 3]
    assert len(encoder.store) == 2
    reward = ClipReward(encoder, "a goal")
    scored = reward.compute_reward(FrameBatch(np.zeros(5, np.int64), np.arange(5), frames=frames))
    assert scored.valid.tolist() == [True, False, False, False, True]
    assert scored.reasons[3] == "embedding has norm 0.5 instead of 1"


def test_size_of_the_frame_counts(tmp_path):
    pixels = noise(1, side=4).reshape(-1)
    encoder = open_cached(ProjectionEncoder(), tmp_path)
    for shape in ((1, 4, 4, 3), (1, 2, 8, 3), (1, 8, 2, 3)):
        encoder.encode_images(pixels.reshape(shape))
    assert encoder.stats()["encoded"] == 3


@pytest.mark.parametrize("frames", [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3)), noise(2)[0]])
def test_what_are_no_frames_is_refused(tmp_path, frames):
    with pytest.raises(FramesError, match="frames must be uint8 of shape"):
        open_cached(ProjectionEncoder(), tmp_path).encode_images(frames)


def test_error_of_the_encoder_is_raised_and_stores_nothing(tmp_path):
    encoder = open_cached(ProjectionEncoder(fail_at=1), tmp_path)
    encoder.encode_images(noise(2))
    with pytest.raises(RuntimeError, match="told to fail"):
        encoder.encode_images(noise(4, seed=1))
    assert encoder.stats() == {"frames": 2, "hits": 0, "encoded": 2}
    assert len(encoder.store) == 2


def test_encoder_of_another_length_than_it_says_is_an_error(tmp_path):
    inner = ProjectionEncoder()
    encoder = open_cached(inner, tmp_path)
    inner.dim = 23
    with pytest.raises(ValueError, match=r"embeddings must be \(2, 24\), got \(2, 23\)"):
        encoder.encode_images(noise(2))


def test_what_else_an_encoder_has_is_passed_on(tmp_path):
    inner = ProjectionEncoder()
    encoder = open_cached(inner, tmp_path)
    names = ("id", "image_size", "dim", "licence", "batches")
    assert [getattr(encoder, name) for name in names] == [getattr(inner, name) for name in names]
    assert getattr(encoder, "precision", None) is None
    np.testing.assert_array_equal(encoder.encode_texts(["a", "b"]), inner.encode_texts(["a", "b"]))
    with pytest.raises(AttributeError, match="_private"):
        encoder._private  # noqa: B018
    assert copy.copy(encoder).id == inner.id


def test_counts_go_on_in_a_resumed_run(tmp_path):
    encoder = open_cached(ProjectionEncoder(), tmp_path)
    encoder.encode_images(noise(4))
    resumed = open_cached(ProjectionEncoder(), tmp_path)
    resumed.load_state_dict(encoder.state_dict())
    resumed.encode_images(noise(4))
    assert resumed.stats() == {"frames": 8, "hits": 4, "encoded": 4}


def test_threads_count_every_frame(tmp_path):
    encoder = open_cached(ProjectionEncoder(), tmp_path)
    frames = noise(40)
    threads = [
        threading.Thread(target=lambda: [encoder.encode_images(frames[k : k + 4]) for k in range(0, 40, 4)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert encoder.stats()["frames"] == 160
    assert len(encoder.store) == 40
    np.testing.assert_allclose(encoder.encode_images(frames), ProjectionEncoder().encode_images(frames), atol=1e-3)


def test_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="float16 or float32, got 'int8'"):
        open_cached(ProjectionEncoder(), tmp_path, "int8")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_precision_is_told_apart_though_the_id_is_the_same(tmp_path, frames):
    """Of a real encoder: bf16 moves embeddings by 1e-3, so those of another precision must not be taken for its own."""
    import open_clip
    import torch

    def build(precision):
        torch.manual_seed(0)
        model = open_clip.create_model("tiny-vit")
        return ClipEncoder(model, None, PreprocessConfig(size=(48, 48)), name="tiny", device="cpu", precision=precision)

    pictures = frames(4)
    exact, rough = (open_cached(build(precision), tmp_path) for precision in ("fp32", "bf16"))
    assert exact.id == rough.id
    assert (exact.precision, rough.precision) == ("fp32", "bf16")
    assert exact.devices == ["cpu"]
    assert exact.batch_sizes == [32]
    a, b = exact.encode_images(pictures), rough.encode_images(pictures)
    assert rough.stats()["encoded"] == 4
    np.testing.assert_allclose(a, build("fp32").encode_images(pictures), atol=5e-4)
    np.testing.assert_allclose(b, build("bf16").encode_images(pictures), atol=5e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{exact.id}__{one.precision}__{one.runtime}__float16" for one in (rough, exact)
    ]


def test_runtime_is_told_apart_though_the_id_is_the_same(tmp_path):
    """Engines round differently, so those of another one must not be taken for its own."""
    for runtime in ("torch", "openvino", None):
        inner = ProjectionEncoder()
        if runtime:
            setattr(inner, "runtime", runtime)  # noqa: B010  the fake has none
        encoder = open_cached(inner, tmp_path)
        encoder.encode_images(noise(3))
        assert encoder.stats()["encoded"] == 3
        assert encoder.store.meta.runtime == runtime
    names = (f"{inner.id}__{end}" for end in ("float16", "openvino__float16", "torch__float16"))
    assert sorted(path.name for path in tmp_path.iterdir()) == list(names)


def test_store_is_the_seam(tmp_path):
    """The class takes any store: two encoders of one id share it."""
    store = open_cached(ProjectionEncoder(), tmp_path).store
    first, second = (CachedEncoder(ProjectionEncoder(), store) for _ in range(2))
    first.encode_images(noise(3))
    second.encode_images(noise(3))
    assert second.stats() == {"frames": 3, "hits": 3, "encoded": 0}
