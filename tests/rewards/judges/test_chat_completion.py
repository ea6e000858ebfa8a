"""What likely first tokens tell, and what probabilities make of it, against numbers worked out by hand."""

import math

import pytest

from vlmreward.rewards.judges.chat_completion import bounds, most_tokens
from vlmreward.rewards.judges.probabilities import expected, share_of_first
from vlmreward.rewards.judges.questions import LogProb, Question, as_line

LOG = math.log


def test_listed_word_has_its_probability():
    listed = {"True": LOG(0.6), " True": LOG(0.1), "\nTrue ": LOG(0.05), "true": LOG(0.2)}
    found = bounds("True", listed)
    assert found.exact
    assert math.exp(found.low) == pytest.approx(0.75, abs=1e-12)


def test_word_that_is_not_listed_is_no_likelier_than_the_last():
    found = bounds("False", {"True": LOG(0.9), "No": LOG(0.01)})
    assert found.low == -math.inf
    assert math.exp(found.high) == pytest.approx(0.01, abs=1e-12)


def test_beginning_may_or_may_not_go_on():
    found = bounds("True", {"Tr": LOG(0.5), "True": LOG(0.2), "False": LOG(0.1)})
    assert math.exp(found.low) == pytest.approx(0.2, abs=1e-12)
    assert math.exp(found.high) == pytest.approx(0.7, abs=1e-12)
    alone = bounds("True", {"Tr": LOG(0.5), "False": LOG(0.1)})
    assert (alone.low, pytest.approx(math.exp(alone.high), abs=1e-12)) == (-math.inf, 0.6)
    assert bounds("True", {"": LOG(0.5), " ": LOG(0.4)}).low == -math.inf


def test_share_of_two_words_and_its_bounds():
    assert share_of_first([LogProb(LOG(0.3), LOG(0.3)), LogProb(LOG(0.1), LOG(0.1))]) == pytest.approx((0.75, 0.75))
    low, high = share_of_first([LogProb(LOG(0.8), LOG(0.8)), LogProb(-math.inf, LOG(0.2))])
    assert (low, high) == (pytest.approx(0.8), 1.0)
    low, high = share_of_first([LogProb(-math.inf, LOG(0.1)), LogProb(LOG(0.9), LOG(0.9))])
    assert (low, high) == (0.0, pytest.approx(0.1))
    assert share_of_first([LogProb(-900.0, -900.0), LogProb(-901.0, -901.0)])[0] == pytest.approx(
        1 / (1 + math.exp(-1))
    )
    unknown = LogProb(-math.inf, -math.inf)
    assert all(math.isnan(x) for x in share_of_first([unknown, unknown]))


def test_expectation_over_whole_answers():
    logprobs = tuple(LogProb(LOG(p), LOG(p)) for p in (0.1, 0.3, 0.1))
    assert expected([-10, 5, 20], logprobs, "a number") == pytest.approx((-1 + 1.5 + 2) / 0.5)
    surely = (LogProb(LOG(0.99), LOG(0.99)), LogProb(-math.inf, LOG(0.001)))
    assert expected([1, 5], surely, "a grade") == 1
    vague = (LogProb(LOG(0.5), LOG(0.5)), LogProb(-math.inf, LOG(0.1)))
    assert expected([1, 5], vague, "a grade") == "the server lists too few of the answers that are a grade"
    none = (LogProb(-math.inf, LOG(0.1)),) * 2
    assert expected([1, 5], none, "a grade") == "none of the model's likely answers is a grade"


def test_bound_of_tokens_counts_bytes_pictures_and_the_longest_answer(make_question):
    question = Question(("größe", make_question().parts[1], "x"), max_tokens=20)
    assert most_tokens(question, 500, {}) == 64 + 7 + 1 + 500 + 20
    assert most_tokens(question, 500, {"max_completion_tokens": 900}) == 64 + 8 + 500 + 900


def test_foreign_text_becomes_one_short_line():
    assert as_line("a\n\tb\x1b[31m\u202ec\x00") == "a b [31m c"
    assert len(as_line("word " * 1000)) <= 160
