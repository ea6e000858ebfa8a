"""Quantised towers: that they pass the gate or are refused by it, that they are the same again, and what is read."""

import re
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from vlmreward.encoders import make_encoder
from vlmreward.encoders.int8 import Int8Tower, quantise, with_int8
from vlmreward.encoders.int8_gate import centred_cosine, judge
from vlmreward.errors import ConfigError, DependencyNotInstalled, WeightsError

MISSING = [package for package in ("openvino", "nncf") if find_spec(package) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason="needs pip install 'vlmreward[openvino]'")

GOAL = "pole vertically upright on top of the cart"
EPISODE = np.repeat(np.arange(24), 5)


@pytest.fixture(scope="module")
def encoder() -> Any:
    return make_encoder("mini", device="cpu", precision="fp32", runtime="torch")


@pytest.fixture(scope="module")
def pictures(cartpole_frames):
    return cartpole_frames[:120]


@pytest.fixture(scope="module")
def tower(encoder, pictures):
    return quantise(encoder, pictures, EPISODE)


@pytest.fixture(scope="module")
def score(encoder):
    goal = encoder.encode_texts([GOAL])[0]
    return lambda embeddings: embeddings @ goal


def with_tables(tower, change):
    """Return the tower with every table of its int8 weights changed."""
    weights = np.frombuffer(tower.weights, np.int8).copy()
    places = re.findall(rb'element_type="i8"[^>]* offset="(\d+)" size="(\d+)"', tower.xml)
    assert len(places) > 10
    for offset, size in places:
        table = weights[int(offset) : int(offset) + int(size)]
        table[:] = change(table)
    return replace(tower, weights=weights.tobytes())


def test_mini_passes_on_frames_of_other_episodes(encoder, tower, score, cartpole_frames):
    quick = with_int8(encoder, tower)
    agreement = judge(tower.reference, quick.encode_images(tower.frames), tower.judged, score)
    agreement.check()
    assert agreement.frames == agreement.rewards == 80
    assert agreement.centred_cosine < 1 - 1e-5  # it is another arithmetic
    # frames that were not there at all, at the environment's size, against fp32 by itself
    unseen = cartpole_frames[::-1, :, ::-1]
    assert centred_cosine(encoder.encode_images(unseen), quick.encode_images(unseen)) > 0.99


def test_perturbed_weights_are_refused_with_the_figures(encoder, tower, score):
    rng = np.random.default_rng(0)

    def perturb(table):
        return np.clip(table + rng.integers(-40, 41, table.shape), -128, 127).astype(np.int8)

    bad = with_int8(encoder, with_tables(tower, perturb))
    agreement = judge(tower.reference, bad.encode_images(tower.frames), tower.judged, score)
    with pytest.raises(ConfigError, match=r"precision int8 is refused, centred cosine -?0\.\d{4} \(at least 0\.99\)"):
        agreement.check()
    assert with_tables(tower, lambda table: table).digest == tower.digest  # nothing but the tables was changed


def test_the_encoder_stays_but_for_its_pictures(encoder, tower, cartpole_frames):
    quick = with_int8(encoder, tower)
    assert (quick.precision, quick.runtime, quick.dim, quick.licence) == ("int8", "openvino", 256, "MIT")
    assert quick.id == f"{encoder.id}-int8-{tower.digest}"
    assert (encoder.precision, encoder.runtime) == ("fp32", "torch")
    assert np.array_equal(quick.encode_texts([GOAL]), encoder.encode_texts([GOAL]))
    embeddings = quick.encode_images(cartpole_frames)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(240), abs=1e-6)
    assert not np.array_equal(embeddings, encoder.encode_images(cartpole_frames))


def test_streams_and_repetitions_change_no_bit(encoder, tower, torch_threads, cartpole_frames):
    results = []
    for threads in (1, 2):
        torch_threads(threads)
        results += [with_int8(encoder, tower).encode_images(cartpole_frames) for _ in range(2)]
    assert all(np.array_equal(result, results[0]) for result in results)


def test_the_same_frames_give_the_same_tower_and_nothing_is_printed(encoder, tower, pictures, capfd):
    assert quantise(encoder, pictures, EPISODE).content_digest == tower.content_digest
    assert capfd.readouterr() == ("", "")


def test_held_out_frames_are_the_towers_input_and_their_reference_fp32(encoder, tower, pictures):
    assert tower.frames.shape == (80, 96, 96, 3)
    assert set(np.unique(tower.episode)) == {n for n in range(24) if n % 3}
    kept = pictures[np.isin(EPISODE, tower.episode)]
    assert tower.reference == pytest.approx(encoder.encode_images(kept), abs=1e-6)


def test_a_file_holds_all_of_it(tower, tmp_path):
    path = tmp_path / "tower.safetensors"
    path.write_bytes(tower.to_bytes())
    loaded = Int8Tower.load(path)
    assert (loaded.encoder, loaded.xml, loaded.weights) == (tower.encoder, tower.xml, tower.weights)
    for name in ("frames", "reference", "episode", "judged"):
        ours, theirs = getattr(loaded, name), getattr(tower, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
def test_damaged_files_are_refused(tower, tmp_path, where):
    path = tmp_path / "tower.safetensors"
    content = bytearray(tower.to_bytes())
    place = 2000 + int(where * (len(content) - 2000))
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"tower.safetensors is damaged or of another version: copy it again"):
        Int8Tower.load(path)
    path.write_bytes(content[:place])
    with pytest.raises(WeightsError, match=r"tower.safetensors can't be read"):
        Int8Tower.load(path)


def test_missing_and_foreign_files_are_refused(tower, tmp_path):
    path = tmp_path / "tower.safetensors"
    with pytest.raises(WeightsError, match="can't be read"):
        Int8Tower.load(path)
    path.write_bytes(save({"a": np.zeros(1)}, {"format": "other"}))
    with pytest.raises(WeightsError, match="can't be read"):
        Int8Tower.load(path)
    with pytest.raises(WeightsError, match="was made from encoder other-1, this one is mini-"):
        with_int8(make_encoder("mini", device="cpu", runtime="torch"), replace(tower, encoder="other-1"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        lambda xml: xml.replace(b'type="Convolution"', b'type="Backdoor"'),
        lambda xml: xml.replace(b'version="opset1"', b'version="extension"'),
        lambda xml: xml[: len(xml) // 2],
        lambda xml: b"\x80\x04cposix\nsystem\n(S'true'\ntR.",  # a pickle
        lambda xml: b"",
    ],
)
def test_a_network_of_anything_but_openvinos_own_operations_is_refused(encoder, tower, change):
    with pytest.raises(WeightsError, match="OpenVINO can't read the int8 model"):
        with_int8(encoder, replace(tower, xml=change(tower.xml)))


def test_only_a_reference_encoder_is_quantised(pictures):
    other: Any = make_encoder("mini", device="cpu", precision="fp32", runtime="openvino")
    with pytest.raises(ConfigError, match="precision=fp32 and runtime=torch, got fp32 and openvino"):
        quantise(other, pictures, EPISODE)
    other = make_encoder("mini", device="cpu", precision="bf16", runtime="torch")
    with pytest.raises(ConfigError, match="precision=fp32 and runtime=torch, got bf16 and torch"):
        quantise(other, pictures, EPISODE)
    with pytest.raises(ConfigError, match="int8 is calibrated on pictures, which train does: use another"):
        make_encoder("mini", device="cpu", precision="int8")


def test_a_transformer_is_quantised_too(frames):
    encoder: Any = make_encoder(
        "open_clip", model="tiny-vit", random_weights=True, device="cpu", precision="fp32", runtime="torch"
    )
    pictures = frames(96)
    made = quantise(encoder, pictures, np.arange(96))
    quick = with_int8(encoder, made)
    assert centred_cosine(encoder.encode_images(pictures), quick.encode_images(pictures)) > 0.9


def test_missing_package_is_one_line(encoder, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(
        DependencyNotInstalled, match=r"'nncf' is not installed: run pip install 'vlmreward\[openvino\]'"
    ):
        quantise(encoder, pictures, EPISODE)
