"""Who answers, and what becomes of the answers: orders, two stages, errors, people."""

import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlmreward.errors import ConfigError, UnknownNameError
from vlmreward.rewards.annotators import list_annotators, make_annotator
from vlmreward.rewards.annotators.answers import Answer, BothOrders, Comparer
from vlmreward.rewards.annotators.person import PageComparer, TerminalComparer
from vlmreward.rewards.annotators.scored import RewardAnnotator
from vlmreward.rewards.annotators.scripted import ScriptedAnnotator
from vlmreward.rewards.annotators.two_stage import TwoStageComparer, read_choice
from vlmreward.rewards.judges import questions as judges
from vlmreward.rewards.judges.questions import Question, Usage
from vlmreward.rewards.judges.rubric import RubricReward
from vlmreward.rewards.judges.scripted_judge import ScriptedJudge, TruthTable
from vlmreward.testing.fakes import BrightnessReward, ProjectionEncoder
from vlmreward.types import FrameBatch


def batch(values: Any, seed: int = 0) -> FrameBatch:
    """Different pictures whose red channel and environment's reward are a value."""
    values = np.asarray(values, np.float32)
    frames = np.random.default_rng(seed).integers(0, 255, (len(values), 8, 8, 3)).astype(np.uint8)
    frames[..., 0] = (255 * values).astype(np.uint8)[:, None, None]
    count = np.zeros(len(values), np.int64)
    return FrameBatch(count, count, "be bright", frames=frames, env_reward=values)


class Told:
    """Gives the answers it was told, one call after the other."""

    calls_per_pair = 1
    privileged = False

    def __init__(self, *calls: str) -> None:
        self._told = [call.split() for call in calls]
        self.calls = 0

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        self.calls += len(first)
        return [Answer(choice, "told") for choice in self._told.pop(0)]  # type: ignore[arg-type]


def test_both_orders_by_hand():
    there = "first second first  first  unsure invalid unsure  first"
    back = "second first first  unsure unsure first   invalid invalid"
    asked = BothOrders(Told(there, back))
    answers = asked.compare(batch(np.zeros(8)), batch(np.zeros(8)))
    assert [a.choice for a in answers] == ["first", "second", *["unsure"] * 3, *["invalid"] * 3]
    assert answers[2].reason == "first in one order, second in the other"
    assert asked.calls == 16
    assert asked.calls_per_pair == 2


def test_a_judge_that_favours_a_place_says_nothing_in_both_orders_and_rubbish_in_one():
    dark, bright = batch(np.linspace(0, 0.4, 20)), batch(np.linspace(0.5, 1, 20), seed=1)
    biased = ScriptedAnnotator(favours_first=1.0)
    assert {a.choice for a in biased.compare(dark, bright)} == {"first"}
    assert {a.choice for a in BothOrders(biased).compare(dark, bright)} == {"unsure"}
    assert {a.choice for a in BothOrders(ScriptedAnnotator()).compare(dark, bright)} == {"second"}


def test_scripted_errors_are_as_many_as_said_and_the_same_in_both_orders():
    dark, bright = batch(np.full(2000, 0.2)), batch(np.full(2000, 0.8), seed=1)
    judge = ScriptedAnnotator(errors=0.1, seed=3)
    there = [a.choice for a in judge.compare(dark, bright)]
    wrong = there.count("first")
    assert 160 <= wrong <= 240  # 200 expected, standard deviation 13.4
    assert [a.swapped().choice for a in judge.compare(bright, dark)] == there
    assert [a.choice for a in BothOrders(judge).compare(dark, bright)] == there
    assert [a.choice for a in ScriptedAnnotator(errors=0.1, seed=4).compare(dark, bright)] != there


def test_scripted_is_unsure_within_its_margin_and_refuses_frames_without_truth():
    judge = ScriptedAnnotator(margin=0.25)
    answers = judge.compare(batch([0.5, 0.5, 0.5]), batch([0.75, 0.8125, 0.125], seed=1))
    assert [a.choice for a in answers] == ["unsure", "second", "first"]
    blind = replace(batch([0.5]), env_reward=None)
    with pytest.raises(ConfigError, match="reads the environment's own reward"):
        judge.compare(blind, blind)


def test_scripted_ratings_by_hand():
    judge = ScriptedAnnotator(low=-1, high=1, levels=5)
    rated = [r.value for r in judge.rate(batch([0.0, 0.1, 0.3, 1.0]))]
    assert rated == [0.5, 0.5, 0.75, 1.0]
    wrong = ScriptedAnnotator(errors=1.0, low=-1, high=1, levels=5).rate(batch(np.full(400, 0.0)))
    assert {r.value for r in wrong} == {0.0, 0.25, 0.75, 1.0}


def test_a_reward_compares_and_rates():
    judge = RewardAnnotator(BrightnessReward(), margin=0.1)
    dark, bright = batch([0.2, 0.6, 0.4]), batch([0.8, 0.2, 0.45], seed=1)
    assert [a.choice for a in judge.compare(dark, bright)] == ["second", "first", "unsure"]
    assert [r.value for r in judge.rate(dark)] == pytest.approx([0.2, 0.6, 0.4])
    assert judge.calls == 6


def test_a_reward_that_asks_a_judge_costs_two_calls_a_pair_and_keeps_what_was_said():
    first, second = batch([0.0, 0.5, 1.0, 0.5]), batch([1.0, 0.5, 0.0, 0.5], seed=1)
    judge = Model(["Grade: 1", "3", "5", "a cube"], ["5", "3", "1", "5"], ["2", "no"])
    annotator = RewardAnnotator(RubricReward(judge, "be bright"))
    answers = annotator.compare(first, second)
    assert [a.choice for a in answers] == ["second", "unsure", "first", "invalid"]
    assert answers[-1].reason == "the reply is not one grade from 1 to 5: a cube"
    assert (annotator.calls, annotator.calls_per_pair) == (8, 2)
    assert [r.value for r in annotator.rate(batch([0.2, 0.3]))] == [0.25, None]
    assert not annotator.privileged
    assert RewardAnnotator(RubricReward(ScriptedJudge(truth=lambda picture: 0.5), "be bright")).privileged


class Model:
    """A judge that answers by what it is told, a call after the other."""

    id, licence, privileged, usage = "model", "MIT", False, Usage()

    def __init__(self, *calls: list[str | None]) -> None:
        self.asked: list[Sequence[Question]] = []
        self._calls = list(calls)

    def ask(self, questions: Sequence[Question]) -> list[judges.Answer]:
        self.asked.append(questions)
        return [judges.Answer(text, reason="" if text is not None else "time-out") for text in self._calls.pop(0)]


def test_two_stages_put_the_questions_of_the_paper():
    model = Model(["A dark one and a {bright} one.", None, " ", "Both grey."], ["1", "-1"])
    comparer = TwoStageComparer(model)
    assert isinstance(comparer, Comparer)
    first, second = batch([0.1, 0.2, 0.3, 0.4]), batch([0.9, 0.8, 0.7, 0.6], seed=1)
    answers = comparer.compare(first, second)
    assert [a.choice for a in answers] == ["second", "invalid", "invalid", "unsure"]
    assert [a.reason for a in answers[1:3]] == ["time-out", "the first reply is empty"]
    assert comparer.calls == 6  # the second question is not put where the first has no reply
    begin, again = model.asked
    assert first.frames is not None
    assert np.array_equal(begin[0].parts[1], first.frames[0])
    assert "The goal is be bright. Is there any difference between Image 1 and Image 2" in str(begin[0].parts[-1])
    assert [q.pictures for q in again] == [[], []]
    assert "A dark one and a {bright} one." in str(again[0].parts[0])
    assert "Reply a single line of 0" in str(again[0].parts[0])


def test_a_second_question_without_a_reply_is_invalid():
    answers = TwoStageComparer(Model(["dark", "light"], [None, "perhaps"])).compare(batch([0.1] * 2), batch([0.9] * 2))
    assert [a.choice for a in answers] == ["invalid", "invalid"]
    assert [a.reason for a in answers] == ["time-out", "the reply is not 0, 1 or -1: 'perhaps'"]


def test_a_scripted_judge_compares_as_the_truth_says_or_errs_as_often_as_it_should():
    progress = np.random.default_rng(5).random(800)
    frames = batch(progress).frames
    assert frames is not None
    table = TruthTable(frames, progress)
    one, two = (replace(batch(progress[k::2]), frames=frames[k::2]) for k in range(2))
    right = ["second" if b > a else "first" for a, b in zip(progress[::2], progress[1::2], strict=True)]
    knowing = TwoStageComparer(ScriptedJudge(truth=table))
    assert knowing.privileged
    assert [a.choice for a in BothOrders(knowing).compare(one, two)] == right
    assert {a.choice for a in knowing.compare(one, one)} == {"unsure"}
    judge = ScriptedJudge(truth=table, error_rate=0.1, seed=3)
    told = [a.choice for a in TwoStageComparer(judge).compare(one, two)]
    assert 22 <= sum(a != b for a, b in zip(told, right, strict=True)) <= 58  # 40 expected, standard deviation 6
    assert judge.usage.calls == 800
    unknown = TwoStageComparer(judge).compare(batch([0.5], seed=9), batch([0.6], seed=8))
    assert unknown == [Answer("invalid", "a scripted judge doesn't know the truth of a picture")]
    (other,) = judge.ask([Question(("The second is nearer.",), "verdict")])
    assert other.text is None


@pytest.mark.parametrize(
    ("reply", "choice"),
    [
        ("0", "first"),
        (" 1\n", "second"),
        ("-1", "unsure"),
        ("The answer:\n1.", "second"),
        ("Answer: 0", "first"),
        ("**-1**", "unsure"),
    ],
)
def test_replies_that_can_be_read(reply, choice):
    assert read_choice(reply).choice == choice


@pytest.mark.parametrize(
    "reply",
    ["", "2", "0 or 1", "Image 1 is better: 0", "10", "1.5", "yes", "\n\n", "-0.1", "Image 1", "Image 1.", "- 1"],
)
def test_replies_that_cannot_be_read_are_invalid_with_their_text(reply):
    answer = read_choice(reply)
    assert answer.choice == "invalid"
    assert repr(reply) in answer.reason


def test_a_model_that_loses_a_reply_is_an_error():
    with pytest.raises(ValueError, match="2 questions were put and 1 replies came"):
        TwoStageComparer(Model(["0"])).compare(batch([0.1, 0.2]), batch([0.3, 0.4]))


def test_a_person_at_the_terminal(tmp_path):
    typed = iter(["2", "x", " U ", "1"])
    prompts = []

    def read(prompt):
        prompts.append(prompt)
        return next(typed)

    comparer = TerminalComparer(tmp_path / "pair.png", read)
    answers = comparer.compare(batch([0.1, 0.2, 0.3]), batch([0.9, 0.8, 0.7], seed=1))
    assert [a.choice for a in answers] == ["second", "unsure", "first"]
    assert "'be bright'" in prompts[0]
    assert (tmp_path / "pair.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_person_at_a_page():
    page = PageComparer(timeout=20)
    answers: list[Answer] = []
    first = replace(batch([0.1, 0.2]), instruction="<b> & upright")
    asked = threading.Thread(target=lambda: answers.extend(page.compare(first, batch([0.9, 0.8], seed=1))))
    asked.start()

    def get(data=None):
        body = None if data is None else urllib.parse.urlencode(data).encode()
        with urllib.request.urlopen(page.url, body, timeout=10) as reply:
            return reply.read().decode()

    try:
        end = time.monotonic() + 10
        while "&lt;b&gt; &amp; upright" not in (shown := get()):
            assert time.monotonic() < end, shown
        assert "2 left" in shown
        for path, body in (("", None), ("wrong", None), ("", b"number=0&key=1")):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(page.url.replace(page.token, path), body, timeout=10)
        assert "1 left" in get({"number": 0, "key": "2"})
        assert "1 left" in get({"number": 0, "key": "1"})  # answered already
        assert "1 left" in get({"number": 1, "key": "what"})
        assert "No question" in get({"number": 1, "key": "u"})
        asked.join(10)
        assert [a.choice for a in answers] == ["second", "unsure"]
    finally:
        page.close()


def test_pairs_that_nobody_answers_are_invalid():
    page = PageComparer(timeout=0.05)
    try:
        answers = page.compare(batch([0.1]), batch([0.9], seed=1))
        assert answers == [Answer("invalid", "nobody answered within 0.05 s")]
        assert "No question" in page.page()
    finally:
        page.close()


def test_annotators_by_name():
    encoder = ProjectionEncoder()
    assert list_annotators() == ["page", "reward", "scripted", "terminal", "two_stage"]
    assert isinstance(make_annotator({"name": "reward"}, encoder, ("be bright",)), RewardAnnotator)
    scripted = make_annotator({"name": "scripted", "errors": 0.1, "seconds": 0.0}, encoder, ("be bright",))
    assert scripted.errors == pytest.approx(0.1)
    with pytest.raises(UnknownNameError, match="did you mean 'scripted'"):
        make_annotator({"name": "scriptd"}, encoder, ("a",))
    with pytest.raises(ConfigError, match="annotator 'scripted' has no setting 'error'"):
        make_annotator({"name": "scripted", "error": 0.1}, encoder, ("a",))
    with pytest.raises(ConfigError, match=r"errors must be a finite number in \[0, 1\]"):
        make_annotator({"name": "scripted", "errors": 2}, encoder, ("a",))
    with pytest.raises(ConfigError, match="levels"):
        ScriptedAnnotator(levels=1)
    asked = {"name": "two_stage", "judge": {"url": "http://localhost:9/v1", "model": "m"}}
    assert isinstance(make_annotator(asked, encoder, ("a",)), TwoStageComparer)
    with pytest.raises(ConfigError, match=r"needs the setting 'url': give reward\.annotator\.judge\.url="):
        make_annotator({"name": "two_stage"}, encoder, ("a",))
    with pytest.raises(ConfigError, match=r"reward\.annotator\.judge must hold name"):
        make_annotator({"name": "two_stage", "judge": "http"}, encoder, ("a",))
    with pytest.raises(ConfigError, match=r"reward\.annotator must hold name"):
        make_annotator("scripted", encoder, ("a",))
