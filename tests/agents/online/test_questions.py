"""What is asked and what is learned from the answers, against numbers worked out by hand."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportIndexIssue=false
# batches of a pool have every field, and nets are those of embeddings: a test knows what it has made

import math

import numpy as np
import pytest
import torch

from vlmreward.agents.online.frame_pool import FramePool
from vlmreward.agents.online.head_fit import FitSettings, cross_entropy, fit_head
from vlmreward.agents.online.questions import Examples, FrameQuestions, PairQuestions, are_alike, examples_of
from vlmreward.agents.online.sampling import k_center, place_questions, preference_probability, rank_questions
from vlmreward.rewards.annotators.answers import Answer, Rating
from vlmreward.rewards.head import Head, HeadMeta
from vlmreward.rewards.head_net import HeadSettings
from vlmreward.wrappers.relabelling import LearnedRows
from vlmreward.wrappers.scoring import ROW_DTYPE, ScoredRows

DIM = 3


def observe(pool, values, valid=None, size=8):
    """Show a pool pictures of these grey levels; embeddings and environment reward are the level."""
    values = np.asarray(values)
    count = len(values)
    rows = np.zeros(count, ROW_DTYPE)
    rows["env_reward"] = values
    valid = np.ones(count, bool) if valid is None else np.asarray(valid)
    embeddings = np.repeat(values[:, None], DIM, axis=1).astype(np.float16)
    learned = LearnedRows(embeddings, np.zeros(count, np.int32))
    scored = ScoredRows(rows, np.zeros(count, np.float32), valid, np.zeros((count, 0), np.float32), learned=learned)
    pictures = np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (count, size, size, 3))
    pool.observe(scored, pictures, np.arange(count))


def levels(pool):
    return sorted(pool.take(np.arange(len(pool))).env_reward.tolist())


class Scripted:
    """Answers by a list; counts."""

    calls_per_pair = calls_per_frame = 1
    privileged = False

    def __init__(self, *answers):
        self.answers, self.calls, self.seen = list(answers), 0, []

    def compare(self, first, second):
        self.calls += len(first)
        self.seen.append((first, second))
        return [Answer(choice) for choice in self.answers[: len(first)]]

    def rate(self, batch):
        self.calls += len(batch)
        return [Rating(value) for value in self.answers[: len(batch)]]


def test_the_pool_keeps_the_newest_of_every_few_valid_frames():
    pool = FramePool(size=4, keep_every=2, instruction="go")
    observe(pool, [1, 2, 3], valid=[True, False, True])  # 1 is kept, 3 is not
    assert levels(pool) == [1]
    observe(pool, [4, 5])  # 4 is kept
    assert levels(pool) == [1, 4]
    observe(pool, range(10, 20))
    assert levels(pool) == [12, 14, 16, 18]
    taken = pool.take(np.array([0, 0, 3]))
    assert taken.frames is not None
    assert taken.frames.shape == (3, 8, 8, 3)
    assert taken.frames[:, 0, 0, 0].tolist() == taken.env_reward.tolist() == taken.embeddings[:, 0].tolist()
    assert taken.instruction == "go"


def test_pairs_that_are_alike_are_not_asked_about():
    one = np.zeros((3, 10, 10, 3), np.uint8)
    other = one.copy()
    other[0, 0, 0, 1] = 9  # one pixel in a hundred
    other[1, 0, :2] = 255  # two
    other[2] = 8  # all of them, by too little
    assert are_alike(one, other, 0.01).tolist() == [True, False, True]
    assert are_alike(other, one, 0.01).tolist() == [True, False, True]  # no wrap-around of uint8
    pool = FramePool(100, 1, "go")
    observe(pool, [10] * 30 + [200])
    judge = Scripted(*["first"] * 99)
    questions = PairQuestions(judge, "uniform", 0.01)
    query = questions.draw(pool, None, np.random.default_rng(0), 20)
    assert query is not None
    pairs = np.stack([batch.env_reward for batch in query.frames], axis=1)
    assert set(map(tuple, pairs)) == {(10.0, 200.0), (200.0, 10.0)}
    assert questions.skipped == 40 - len(query)  # all 40 were looked at, and 20 were not to be had
    assert judge.calls == 0
    observe(pool, [10] * 100)
    assert questions.draw(pool, None, np.random.default_rng(0), 20) is None


def test_unsure_and_invalid_are_never_learned_from():
    pool = FramePool(100, 1, "go")
    observe(pool, range(0, 100, 10))
    questions = PairQuestions(Scripted("first", "unsure", "second", "invalid", "first"), "uniform", 0.01)
    query = questions.draw(pool, None, np.random.default_rng(0), 5)
    assert query is not None
    outcome = questions.ask(query)
    told = outcome.examples
    assert outcome.answers == {"first": 2, "unsure": 1, "second": 1, "invalid": 1}
    assert sum(outcome.reasons.values()) == 1
    assert told.target.tolist() == [0.0, 1.0, 0.0]
    kept = [0, 2, 4]
    for k in range(2):
        assert told.x[:, k, 0].tolist() == query.frames[k].env_reward[kept].tolist()


def test_frames_without_a_rating_are_never_learned_from():
    pool = FramePool(100, 1, "go")
    observe(pool, range(0, 100, 10))
    questions = FrameQuestions(Scripted(0.25, None, 1.0), "uniform")
    query = questions.draw(pool, None, np.random.default_rng(0), 3)
    assert query is not None
    assert len(set(query.frames[0].env_reward.tolist())) == 3
    outcome = questions.ask(query)
    told = outcome.examples
    assert outcome.answers == {"rated": 2, "invalid": 1}
    assert told.target.tolist() == [0.25, 1.0]
    assert told.x[:, 0, 0].tolist() == query.frames[0].env_reward[[0, 2]].tolist()


def test_the_preference_probability_by_hand():
    p = preference_probability(np.array([0.0, 1.0, 0.5], np.float32), np.array([0.0, 0.0, 1.5], np.float32))
    assert p.tolist() == pytest.approx([0.5, 1 / (1 + math.e), math.e / (1 + math.e)])


def test_k_center_by_hand():
    places = np.array([[0.0], [1.0], [10.0], [4.0], [10.0]], np.float32)
    assert k_center(places, places[:0], 4).tolist() == [0, 2, 3, 1]
    assert k_center(places, np.array([[9.0], [0.0]], np.float32), 2).tolist() == [3, 1]  # 4 and, after it, 1 or 10
    assert sorted(k_center(places, places[:0], 9).tolist()) == [0, 1, 2, 3, 4]
    assert k_center(np.zeros((3, 2), np.float32), np.zeros((1, 2), np.float32), 3).tolist() == [0, 1, 2]


def test_a_pair_lies_where_its_reverse_does():
    x = np.random.default_rng(0).random((4, 2, 3)).astype(np.float16)
    np.testing.assert_array_equal(place_questions(x), place_questions(x[:, ::-1]))
    assert len(np.unique(place_questions(x), axis=0)) == 4
    np.testing.assert_array_equal(place_questions(x[:, :1]), x[:, 0].astype(np.float32))


@pytest.mark.parametrize("frames", [True, False])
def test_k_center_spreads_questions_and_keeps_off_what_was_answered(frames):
    pool = FramePool(200, 1, "go")
    observe(pool, [*range(100), *[150] * 60, 250])  # one frame far from all others
    rng = np.random.default_rng(0)
    made = FrameQuestions(Scripted(), "k_center") if frames else PairQuestions(Scripted(), "k_center", 0.0)
    query = made.draw(pool, None, rng, 20)
    assert query is not None
    assert len(query) == 20
    seen = np.unique(np.concatenate([batch.env_reward for batch in query.frames]))
    uniform = FrameQuestions(Scripted(), "uniform") if frames else PairQuestions(Scripted(), "uniform", 0.0)
    drawn = uniform.draw(pool, None, np.random.default_rng(0), 20)
    assert 250 in seen
    assert len(seen) > len(np.unique(np.concatenate([batch.env_reward for batch in drawn.frames])))
    known = examples_of(query, np.ones(20, bool), np.zeros(20, np.float32), "embeddings")
    again = made.draw(pool, None, np.random.default_rng(0), 1, known)
    first = made.draw(pool, None, np.random.default_rng(0), 1)
    assert [b.env_reward.tolist() for b in again.frames] != [b.env_reward.tolist() for b in first.frames]


def test_sampling_by_hand():
    # members (rows) say, of four candidates: agree on lots, agree they know, disagree, disagree less
    p = np.array([[0.5, 0.9, 0.1, 0.3], [0.5, 0.9, 0.9, 0.5]], np.float32)
    assert rank_questions("uniform", p, 2).tolist() == [0, 1]
    assert rank_questions("disagreement", p, 3).tolist() == [2, 3, 0]  # deviations 0, 0, .4, .1
    assert rank_questions("entropy", p, 4).tolist() == [0, 2, 3, 1]  # of .5, .9, .5, .4
    assert rank_questions("disagreement", None, 3).tolist() == [0, 1, 2]
    assert rank_questions("uniform", p, 9).tolist() == [0, 1, 2, 3]


def test_disagreement_asks_where_members_differ():
    pool = FramePool(200, 1, "go")
    observe(pool, range(0, 200))
    settings = HeadSettings(DIM, members=2, width=1)
    net, _ = fit_head(
        settings, Examples(np.zeros((1, 1, DIM), np.float16), np.zeros(1, np.float32)), FitSettings(1), (0,)
    )
    with torch.no_grad():
        net.mean.zero_()
        net.scale.fill_(1.0)
        net.hidden.copy_(torch.tensor([[[0.02], [0], [0]], [[0.02], [0], [0]]]))
        net.hidden_bias.fill_(0)
        net.out.copy_(torch.tensor([[[1.0]], [[-1.0]]]))  # one member likes what the other does not
        net.out_bias.fill_(0)
    head = Head(net, HeadMeta("preference", "e", "MIT", ("go",), 1))
    apart = {}
    for sampling in ("uniform", "disagreement"):
        query = PairQuestions(Scripted(), sampling, 0.01).draw(pool, head, np.random.default_rng(0), 10)
        assert query is not None
        assert len(query) == 10
        one, other = (np.tanh(0.02 * batch.env_reward) for batch in query.frames)
        apart[sampling] = np.abs(one - other)
    assert apart["disagreement"].min() > apart["uniform"].mean()


@pytest.mark.parametrize("lapses", [0.0, 0.2])
def test_the_cross_entropy_of_a_pair_by_hand(lapses):
    shape = HeadSettings(DIM, members=2, output="tanh")
    said = [torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [-1.0]])]
    target = torch.tensor([[1.0], [1.0]])
    p = [1 / (1 + math.exp(-gain)) for gain in (math.tanh(1), -2 * math.tanh(1))]
    p = [(1 - lapses) * x + lapses / 2 for x in p]
    want = -(math.log(p[0]) + math.log(p[1])) / 2
    assert float(cross_entropy(said, target, shape, lapses)) == pytest.approx(want, abs=1e-6)


def test_the_cross_entropy_of_a_rating_by_hand():
    shape = HeadSettings(DIM, members=1, output="sigmoid")
    want = -(0.25 * math.log(1 / (1 + math.e)) + 0.75 * math.log(math.e / (1 + math.e)))
    assert float(cross_entropy([torch.tensor([[-1.0]])], torch.tensor([[0.25]]), shape, 0.0)) == pytest.approx(want)


def make_answers(count, errors, seed=0, dim=16):
    """Pairs of random points, the better one further along the first axis; a share of the answers is wrong."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 2, dim)).astype(np.float16)
    right = x[:, 1, 0] > x[:, 0, 0]
    return Examples(x, (right ^ (rng.random(count) < errors)).astype(np.float32))


def test_a_fit_finds_the_order_behind_wrong_answers_and_is_the_same_again():
    examples, shape = make_answers(600, errors=0.1), HeadSettings(16)
    torch.manual_seed(1)
    net, loss = fit_head(shape, examples, FitSettings(200), (0, 1))
    torch.manual_seed(2)  # not drawn from
    again, _ = fit_head(shape, examples, FitSettings(200), (0, 1))
    for name, value in net.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    other, _ = fit_head(shape, examples, FitSettings(200), (0, 2))
    assert not torch.equal(net.hidden, other.hidden)
    assert not torch.equal(net.hidden[0], net.hidden[1])  # members are not copies
    head = Head(net, HeadMeta("preference", "e", "MIT", ("go",), 1))
    fresh = make_answers(500, errors=0.0, seed=9)
    reward = [head.score(fresh.x[:, k]) for k in range(2)]
    assert ((reward[1] > reward[0]) == (fresh.target == 1)).mean() > 0.85
    assert loss < math.log(2)


def test_a_network_on_pictures_learns_too():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 60, (80, 2, 24, 24, 3)).astype(np.uint8)
    target = rng.integers(0, 2, 80)
    x[np.arange(80), target, :, :, 0] += 150  # the better picture is red
    shape = HeadSettings(1, members=2, input="frames")
    net, _ = fit_head(shape, Examples(x, target.astype(np.float32)), FitSettings(40, batch=16), (0,))
    head = Head(net, HeadMeta("preference", "e", "MIT", ("go",), 1))
    new = rng.integers(0, 60, (20, 24, 24, 3)).astype(np.uint8)
    red = new.copy()
    red[..., 0] += 150
    assert (head.score(red) > head.score(new)).all()


def test_examples_of_pictures_hold_the_pictures():
    pool = FramePool(100, 1, "go")
    observe(pool, range(0, 100, 10))
    query = PairQuestions(Scripted(), "uniform", 0.01).draw(pool, None, np.random.default_rng(0), 3)
    assert query is not None
    made = examples_of(query, np.array([True, False, True]), np.array([1.0, 0.0, 0.0], np.float32), "frames")
    assert made.x.shape == (2, 2, 8, 8, 3)
    assert made.target.tolist() == [1.0, 0.0]
