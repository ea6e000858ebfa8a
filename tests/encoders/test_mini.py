import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vlmreward.cli.environments import find_tasks
from vlmreward.encoders import make_encoder, mini
from vlmreward.encoders.clip_model import fingerprint
from vlmreward.envs.classic import cartpole
from vlmreward.errors import PromptError, WeightsError

GOAL = "pole vertically upright on top of the cart"


@pytest.fixture(scope="module")
def encoder():
    return mini.MiniEncoder(device="cpu")


def pictures(states):
    canvas = cartpole.make_canvas(96, 96, "fast", cartpole.Appearance())
    return np.stack([cartpole.draw(canvas, np.array(s), cartpole.Appearance()) for s in states])


def test_packaged_weights_are_small_and_safe():
    path = mini.data_folder() / mini.WEIGHTS
    assert path.stat().st_size <= 16_000_000
    assert path.suffix == ".safetensors"


def test_goal_ranks_angles_from_far_away(encoder):
    angles = np.radians(np.arange(0, 181, 15))
    x = encoder.encode_images(pictures([(0, 0, a, 0) for a in angles]))
    similarity = x @ encoder.encode_texts([GOAL])[0]
    assert np.corrcoef(similarity, -angles)[0, 1] > 0.95
    assert similarity[0] - similarity[-1] > 0.3


def test_text_decides_which_end_is_better(encoder):
    x = encoder.encode_images(pictures([(-2.4, 0, 0.5, 0), (2.4, 0, 0.5, 0)]))
    left, right = encoder.encode_texts(["cart at the left end of the track", "cart at the right end of the track"])
    assert x[0] @ left > x[1] @ left
    assert x[1] @ right > x[0] @ right


def test_folded_batch_norms_compute_the_same_function():
    torch.manual_seed(0)
    visual = mini.build_model().visual.eval()
    for module in visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None  # noqa: PT018
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        before = visual(x)
        mini.fuse_batch_norms(visual)
        after = visual(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in visual.modules())
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_id_is_that_of_the_weights_as_they_are_stored(encoder):
    with safe_open(mini.data_folder() / mini.WEIGHTS, framework="pt") as f:
        stored = {name: f.get_tensor(name).float() for name in list(f.keys())}
    model = mini.build_model()
    model.load_state_dict({n: t for n, t in stored.items() if n not in (mini.DOMAIN_WEIGHT, mini.DOMAIN_BIAS)})
    assert encoder.id == f"{mini.VERSION}-{fingerprint(model, mini.NAME + mini.PREPROCESS.key())}"


def test_trimmed_text_features_equal_open_clips_own_path():
    torch.manual_seed(0)
    model = mini.build_model().eval()
    tokens = mini.make_tokenizer()(["up", "keep the stick straight up on the little wagon"])
    with torch.no_grad():
        ours = mini.pooled_features(model, tokens) @ model.text_projection
        theirs = model.encode_text(tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_goal_outside_the_domain_warns_once_and_names_an_alternative(encoder):
    text = "the robot arm pours coffee into the blue mug"
    with pytest.warns(UserWarning, match="encoder=siglip2"):
        encoder.encode_texts([text])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode_texts([text])


def test_goals_and_baselines_of_our_tasks_do_not_warn():
    fresh = mini.MiniEncoder(device="cpu")
    ids = [f"vlmreward/{name}-v0" for name in ("CartPole", "MountainCar", "Humanoid")]
    tasks = [task for env_id in ids for task in find_tasks(env_id).values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh.encode_texts([text for task in tasks for text in (task.goal, task.baseline)])


def test_prompt_longer_than_the_context_is_refused(encoder):
    with pytest.raises(PromptError, match="32"):
        encoder.encode_texts(["very " * 60 + "upright"])


def test_bf16_ranks_as_float32_does():
    rng = np.random.default_rng(0)
    frames = pictures([(rng.uniform(-2.4, 2.4), 0, rng.uniform(-3.1, 3.1), 0) for _ in range(200)])
    rewards = []
    for precision in ("fp32", "bf16"):
        encoder = mini.MiniEncoder(device="cpu", precision=precision)
        rewards.append(encoder.encode_images(frames) @ encoder.encode_texts([GOAL])[0])
    first, second = (np.argsort(np.argsort(r)) for r in rewards)
    assert np.corrcoef(first, second)[0, 1] > 0.999


def test_damaged_missing_and_foreign_weights_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no weights file"):
        make_encoder("mini", device="cpu", weights=tmp_path / "none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((mini.data_folder() / mini.WEIGHTS).read_bytes()[:1000])
    with pytest.raises(WeightsError, match="can't be read"):
        make_encoder("mini", device="cpu", weights=damaged)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="does not hold"):
        make_encoder("mini", device="cpu", weights=tmp_path / "foreign.safetensors")
