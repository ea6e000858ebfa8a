"""CUDA graphs, where there is a GPU."""

from typing import Any

import numpy as np
import pytest
import torch

from vlmreward.encoders import make_encoder
from vlmreward.encoders.cuda_graphs import MOST_GRAPHS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def both() -> list[Any]:
    return [make_encoder("mini", device="cuda:0", precision="fp32", runtime=name) for name in ("torch", "cuda_graphs")]


@pytest.mark.parametrize("n", [1, 7, 240])
def test_recorded_kernels_give_pytorchs_embeddings(both, cartpole_frames, n):
    reference, ours = (encoder.encode_images(cartpole_frames[:n]) for encoder in both)
    assert ours == pytest.approx(reference, abs=1e-5)
    assert np.array_equal(ours, both[1].encode_images(cartpole_frames[:n]))


def test_batches_do_not_overwrite_each_other(both, cartpole_frames):
    both[1].replicas[0].batch_size = 16
    assert both[1].encode_images(cartpole_frames) == pytest.approx(both[0].encode_images(cartpole_frames), abs=1e-5)


def test_only_a_few_sizes_are_recorded(both, cartpole_frames):
    for n in range(1, 2 * MOST_GRAPHS):
        ours, reference = (encoder.encode_images(cartpole_frames[:n]) for encoder in both)
        assert ours == pytest.approx(reference, abs=1e-5)
    assert len(both[1].replicas[0].tower._recorded) == MOST_GRAPHS


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_every_gpu_records_its_own_graphs(cartpole_frames):
    reference: Any = make_encoder("mini", device="cuda:0", precision="fp32", runtime="torch")
    ours: Any = make_encoder("mini", device="cuda:0,cuda:1", precision="fp32", runtime="cuda_graphs")
    for n in (2, 240):  # both record at the same time, then both replay
        expected = reference.encode_images(cartpole_frames[:n])
        for _ in range(2):
            assert ours.encode_images(cartpole_frames[:n]) == pytest.approx(expected, abs=1e-5)
