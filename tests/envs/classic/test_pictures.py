import numpy as np
import pytest

from vlmreward.envs.classic.pictures import sample_cartpole, sample_mountaincar


@pytest.mark.parametrize("sampler", [sample_cartpole, sample_mountaincar])
def test_same_seed_same_picture_and_facts(sampler):
    first, facts = sampler(np.random.default_rng(5), 48, 48, True)
    second, again = sampler(np.random.default_rng(5), 48, 48, True)
    np.testing.assert_array_equal(first, second)
    assert facts == again


@pytest.mark.parametrize("sampler", [sample_cartpole, sample_mountaincar])
def test_looks_vary_only_when_asked(sampler):
    def corner_colours(varied):
        rng = np.random.default_rng(0)
        return {tuple(sampler(rng, 48, 48, varied)[0][0, 0].tolist()) for _ in range(12)}

    assert len(corner_colours(False)) == 1
    assert len(corner_colours(True)) > 8
