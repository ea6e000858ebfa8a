import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmreward.encoders.frame_hash import distinct, hash_frames


def noise(n, height=5, width=7, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_key_is_the_xxh3_of_the_pixels_with_the_size_as_its_seed():
    frames = noise(3)
    for frame, key in zip(frames, hash_frames(frames), strict=True):
        assert key.tobytes() == xxhash.xxh3_128(frame.tobytes(), seed=5 * 2**32 + 7).digest()


def test_equal_pictures_have_equal_keys_wherever_they_are_in_memory():
    frames = noise(4)
    wide = noise(4, 5, 14)
    wide[:, :, ::2] = frames
    keys = hash_frames(frames)
    np.testing.assert_array_equal(hash_frames(wide[:, :, ::2]), keys)
    np.testing.assert_array_equal(hash_frames(np.asfortranarray(frames)), keys)
    np.testing.assert_array_equal(hash_frames(frame for frame in frames), keys)
    np.testing.assert_array_equal(hash_frames(frames[::-1])[::-1], keys)
    frozen = frames.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(hash_frames(frozen), keys)


def test_one_pixel_more_or_less_is_another_picture():
    frame = noise(1)[0]
    changed = [frame.copy() for _ in range(frame.size)]
    for place, other in enumerate(changed):
        other.reshape(-1)[place] ^= 1
    assert len(distinct(hash_frames([frame, *changed]))[0]) == 1 + frame.size


def test_same_bytes_at_another_size_are_another_picture():
    pixels = noise(1, 4, 6).reshape(-1)
    keys = [hash_frames(pixels.reshape(1, *shape, 3))[0].tolist() for shape in ((4, 6), (6, 4), (2, 12), (24, 1))]
    assert len({tuple(key) for key in keys}) == 4


def test_no_pictures_have_no_keys():
    assert hash_frames([]).shape == (0, 2)
    assert [part.tolist() for part in distinct(hash_frames([]))] == [[], []]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_distinct_keys_stand_in_the_order_of_their_first_appearance(pairs):
    first, index = distinct(np.array(pairs, np.uint64).reshape(-1, 2))
    different = list(dict.fromkeys(pairs))
    assert [pairs[row] for row in first] == different
    assert [different[number] for number in index] == pairs
    assert first.tolist() == [pairs.index(pair) for pair in different]
