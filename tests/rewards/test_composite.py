"""Models of several models: what they declare, how they combine, which rows are valid, how they are built."""

import dataclasses

import numpy as np
import pytest

from vlmreward.errors import ConfigError, PromptError
from vlmreward.rewards import make_reward, make_reward_from_config
from vlmreward.rewards.composite import ConstrainedReward, ProductReward, SoftAndReward
from vlmreward.rewards.shaped import ParReward
from vlmreward.testing.fakes import BrightnessReward, LinearReward
from vlmreward.types import Context, FrameBatch, RewardBatch

LN3 = np.log(3)


class ColumnReward:
    """One number of an embedding is the reward; negative ones can't be scored."""

    def __init__(
        self,
        column: int,
        context: Context = "frame",
        causal: bool = True,
        needs: tuple[str, ...] = ("embeddings",),
        bounds: tuple[float, float] = (0.0, 2.0),
    ) -> None:
        self.context: Context = context
        self.column, self.causal = column, causal
        self.needs, self.range = needs, bounds

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        reward = np.asarray(batch.embeddings)[:, self.column].astype(np.float32)
        valid = reward >= 0
        return RewardBatch(reward, valid, reasons={int(r): f"dark {self.column}" for r in np.flatnonzero(~valid)})


def make_batch(*rows, initial=None):
    n = len(rows)
    return FrameBatch(
        episode=np.zeros(n, np.int64),
        step=np.arange(1, n + 1),
        embeddings=np.array(rows, np.float32),
        initial=None if initial is None else np.array(initial, np.float32),
    )


@pytest.fixture(params=[SoftAndReward, ProductReward, ConstrainedReward])
def build(request):
    def from_parts(**parts):
        settings = {"reference": 0.0} if request.param is SoftAndReward else {}
        return request.param(parts, **settings)

    return from_parts


def test_declarations_are_the_widest_of_the_parts(build):
    frame, pair = ColumnReward(0), ColumnReward(1, "pair")
    prefix, episode = ColumnReward(0, "prefix", needs=("embeddings", "initial")), ColumnReward(0, "episode", False)
    both = build(a=frame, b=frame)
    assert (both.context, both.causal, both.needs) == ("frame", True, ("embeddings",))
    # who reads pairs need not say that it reads the previous frame, and among episodes nobody would know
    mixed = build(a=prefix, b=pair, c=frame)
    assert (mixed.context, mixed.causal, mixed.needs) == ("prefix", True, ("embeddings", "initial", "previous"))
    assert (build(a=pair, b=episode).context, build(a=pair, b=episode).causal) == ("episode", False)
    assert build(a=BrightnessReward(), b=frame).needs == ("frames", "embeddings")


def test_rows_are_valid_where_all_parts_are(build):
    scored = build(a=ColumnReward(0), b=ColumnReward(1)).compute_reward(
        make_batch([0.5, 0.5], [0.5, -1], [-1, 0.5], [-1, -1])
    )
    assert scored.valid.tolist() == [True, False, False, False]
    assert np.isnan(scored.reward).tolist() == [False, True, True, True]
    assert scored.reasons[1] == "dark 1"
    assert scored.reasons[2] == "dark 0"
    assert set(scored.reasons) == {1, 2, 3}
    assert set(scored.parts) == {"a", "b"}
    np.testing.assert_array_equal(scored.parts["a"], np.array([0.5, 0.5, np.nan, np.nan], np.float32))


def test_one_part_is_refused(build):
    with pytest.raises(ConfigError, match=r"combines two or more rewards, got 1: repeat goal=\.\.\."):
        build(a=ColumnReward(0))


def test_soft_and_hand_numbers():
    model = SoftAndReward({"a": ColumnReward(0), "b": ColumnReward(1)}, reference=0.5, temperature=0.1)
    scored = model.compute_reward(make_batch([0.5, 0.5], [0.5 + 0.1 * LN3, 0.5 - 0.1 * LN3]))
    np.testing.assert_allclose(scored.reward, [2 * np.log(0.5), np.log(0.75 * 0.25)], atol=1e-6)
    # both parts in [0, 2]
    assert model.range == pytest.approx((-2 * np.log1p(np.exp(5)), -2 * np.log1p(np.exp(-15))), abs=1e-6)


def test_soft_and_is_centred_on_each_parts_own_reset():
    model = SoftAndReward({"a": ColumnReward(0), "b": ColumnReward(1)}, temperature=0.1)
    assert model.needs == ("embeddings", "initial")
    scored = model.compute_reward(
        make_batch([0.5, 0.9], [0.5, 0.9], initial=[[0.5, 0.9], [0.5 - 0.1 * LN3, 0.9 + 0.1 * LN3]])
    )
    np.testing.assert_allclose(scored.reward, [2 * np.log(0.5), np.log(0.75 * 0.25)], atol=1e-6)
    dark = model.compute_reward(make_batch([0.5, 0.9], initial=[[0.5, -1]]))
    assert dark.reasons == {0: "no valid initial frame"}


def test_product_hand_numbers():
    model = ProductReward({"a": ColumnReward(0), "b": ColumnReward(1)}, low=0.2, high=1.0)
    scored = model.compute_reward(make_batch([0.6, 0.6], [1.8, 0.4], [1.0, 0.1]))
    np.testing.assert_allclose(scored.reward, [0.25, 0.25, 0], atol=1e-6)
    assert model.range == (0, 1)


def test_constrained_reports_its_first_part_and_hands_the_others_to_the_transform():
    parts = {"fast": ColumnReward(0), "level": ColumnReward(1), "quiet": ColumnReward(2, bounds=(-1, 1))}
    model = ConstrainedReward(parts, thresholds=[0.5, -0.2], rate=0.1, limit=5)
    assert model.range == (0, 2)
    batch = make_batch([0.9, 0.3, 0.1], [0.7, 0.1, 0.0])
    scored = model.compute_reward(batch)
    np.testing.assert_array_equal(scored.reward, np.array([0.9, 0.7], np.float32))
    transform = model.make_transform(scale=10.0)
    assert transform.parts == ("level", "quiet")
    others = np.stack([scored.parts[name] for name in transform.parts], axis=-1)
    np.testing.assert_allclose(transform.apply(scored.reward, None, others), [9, 7], rtol=1e-6)
    # level misses .2 + .4, quiet has .3 + .2 to spare
    transform.update(scored.reward, scored.valid, None, others)
    assert transform.state_dict()["multipliers"] == pytest.approx([0.06, 0])
    want = 10 * (np.array([0.9, 0.7]) + 0.06 * np.array([0.3, 0.1])) / 1.06
    np.testing.assert_allclose(transform.apply(scored.reward, None, others), want, rtol=1e-6)
    # two runs of one model share nothing
    assert model.make_transform().state_dict()["multipliers"] == [0, 0]


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (SoftAndReward, {"temperature": -1}, "temperature must be a finite number > 0, got -1"),
        (SoftAndReward, {"reference": "mean"}, "reference must be a number or initial, got 'mean'"),
        (ProductReward, {"low": 1.0}, "high must be above low=1.0, got 1.0"),
        (ProductReward, {"high": "x"}, "high must be a finite number, got 'x'"),
        (ConstrainedReward, {"thresholds": [0.1, 0.2]}, "thresholds must be a number or 1 of them"),
        (ConstrainedReward, {"thresholds": "high"}, "thresholds must be a number or 1 of them.*'high'"),
        (ConstrainedReward, {"thresholds": [None]}, "thresholds must be a finite number, got None"),
        (ConstrainedReward, {"thresholds": 2.5}, "threshold 2.5 of 'b' must lie inside .* 0 to 2"),
        (ConstrainedReward, {"rate": 0}, "rate must be a finite number > 0, got 0"),
        (ConstrainedReward, {"limit": -1}, "limit must be a finite number > 0, got -1"),
    ],
)
def test_bad_settings_are_rejected(build, settings, message):
    with pytest.raises(ConfigError, match=message):
        build({"a": ColumnReward(0), "b": ColumnReward(1)}, **settings)


def test_parts_that_need_two_frames_can_not_be_centred_on_the_reset():
    with pytest.raises(ConfigError, match="SoftAndReward compares the rewards of two frames"):
        SoftAndReward({"a": LinearReward(), "b": LinearReward(context="pair")})


# From configs.


def unit_batch(dim=16, n=5):
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(n, dim)) for _ in range(2)]
    now, initial = ((r / np.linalg.norm(r, axis=1, keepdims=True)).astype(np.float32) for r in rows)
    return dataclasses.replace(make_batch(*now), initial=initial)


def test_each_goal_is_a_part_named_after_it(fake_encoder):
    model = make_reward("product", fake_encoder(), goal=["up", "left"], baseline="room", of={"name": "contrastive"})
    assert isinstance(model, ProductReward)
    batch = unit_batch()
    scored = model.compute_reward(batch)
    for goal in ("up", "left"):
        alone = make_reward("contrastive", fake_encoder(), goal=goal, baseline="room")
        np.testing.assert_array_equal(scored.parts[goal], alone.compute_reward(batch).reward)


def test_more_parts_stand_beside_the_goals(fake_encoder):
    more = {"calm": {"name": "contrastive", "goal": "a lake"}, "dark": {"name": "clip", "goal": "night", "alpha": 0.5}}
    model = make_reward("soft_and", fake_encoder(), goal="up", baseline="room", parts=more)
    assert isinstance(model, SoftAndReward)
    assert list(model.parts) == ["up", "calm", "dark"]
    batch = unit_batch()
    want = make_reward("contrastive", fake_encoder(), goal="a lake", baseline="room").compute_reward(batch).reward
    np.testing.assert_array_equal(model.compute_reward(batch).parts["calm"], want)
    own = {"dark": {"name": "clip", "goal": "night", "alpha": 0.5, "baseline": "a field"}}
    other = make_reward("soft_and", fake_encoder(), goal="up", baseline="room", parts=own)
    assert (other.compute_reward(batch).parts["dark"] != model.compute_reward(batch).parts["dark"]).all()


def test_models_nest_to_any_depth(fake_encoder):
    config = {
        "name": "potential",
        "gamma": 0.9,
        "of": {"name": "soft_and", "of": {"name": "par", "of": {"name": "clip", "alpha": 0.5}}, "reference": 0.5},
        "combine": "add",
    }
    model, transform = make_reward_from_config(config, fake_encoder(), goal=["up", "left"], baseline="room")
    assert (model.context, transform.combine) == ("pair", "add")
    assert set(model.needs) == {"embeddings", "initial", "previous", "terminated"}
    par = model.of.parts["up"]  # type: ignore[attr-defined]
    assert isinstance(par, ParReward)
    assert par.of.alpha == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("par", {"of": "clip"}, r"reward\.of must hold name: <reward> and its settings, got 'clip'"),
        ("par", {"of": {"alpha": 1}}, "the config of reward needs 'name'"),
        ("par", {"of": {"name": "clip", "alhpa": 1}}, "reward 'clip' has no setting 'alhpa'"),
        ("par", {"of": {"name": "clip", "goal": "down"}}, r"reward\.of\.goal is given outside already"),
        ("par", {"alpha": 1}, "reward 'par' has no setting 'alpha'"),
        ("par", {"parts": {}}, "reward 'par' has no setting 'parts'"),
        (
            "par",
            {"of": {"name": "potential"}},
            r"'potential' decides how .* got it as reward\.of: make it the outermost",
        ),
        ("product", {"parts": {"x": {"name": "clip"}}}, "reward 'clip' needs the setting 'goal'"),
        ("product", {"parts": {"x": "clip"}}, r"reward\.parts\.x must hold name"),
        ("product", {"parts": ["clip"]}, r"reward\.parts must hold <part>"),
        ("product", {"parts": {"left": {"name": "clip", "goal": "l"}}}, "two parts of the reward have one name"),
        ("clip", {"of": {"name": "par"}}, "reward 'clip' has no setting 'of'"),
    ],
)
def test_wrong_inner_models_are_one_line(fake_encoder, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        make_reward(name, fake_encoder(), goal=["up", "left"], baseline="room", **settings)


def test_goals_that_are_none_are_refused(fake_encoder):
    for goal in (None, ["up", " "]):
        with pytest.raises(PromptError, match="goal must"):
            make_reward("product", fake_encoder(), goal=goal)
    with pytest.raises(ConfigError, match="two parts of the reward have one name"):
        make_reward("product", fake_encoder(), goal=["up", "up"])
    with pytest.raises(ConfigError, match="two or more rewards, got 0"):
        make_reward("product", fake_encoder())
