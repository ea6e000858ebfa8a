"""The HTTP judge against a real server on a socket."""

import asyncio
import email.utils
import json
import time

import numpy as np
import pytest

from vlmreward.errors import ConfigError
from vlmreward.rewards.judges.http_judge import HttpJudge, _retry_after
from vlmreward.rewards.judges.questions import VisionLanguageModel


def test_answers_come_in_the_order_of_the_questions_several_at_a_time(server, make_question):
    def behave(handler, request, number):
        time.sleep(0.2 if "question 0" in request.parts[0] else 0.1)  # the first one comes last
        handler.say(request.parts[0], tokens=7)

    server.behave = behave
    judge = server.judge(concurrency=4)
    assert isinstance(judge, VisionLanguageModel)
    began = time.monotonic()
    answers = judge.ask([make_question(k) for k in range(12)])
    assert time.monotonic() - began < 0.9  # one by one it would be 1.3
    assert [a.text for a in answers] == [f"question {k}: " for k in range(12)]
    assert server.most_flying == 4
    assert (judge.usage.calls, judge.usage.tokens) == (12, 84)
    assert judge.ask([]) == []


def test_request_holds_texts_and_pictures_in_order_and_asks_for_the_likeliest_answer(server, make_question):
    question = make_question(3, max_tokens=9)
    server.judge(parameters={"seed": 5}).ask([question])
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    for sent, asked in zip(request.parts, question.parts, strict=True):
        np.testing.assert_array_equal(sent, asked)
    told = {key: value for key, value in request.body.items() if key != "messages"}
    assert told == {"model": "tiny-vlm", "temperature": 0, "max_tokens": 9, "stream": False, "seed": 5}
    assert "Authorization" not in request.headers


def test_same_question_twice_is_sent_once(server, make_question):
    answers = server.judge().ask([make_question(1), make_question(2), make_question(1)])
    assert len(server.requests) == 2
    assert [a.usage.calls for a in answers] == [1, 1, 0]


def test_judge_works_inside_a_running_event_loop(server, make_question):
    async def notebook():
        return server.judge().ask([make_question()])

    assert asyncio.run(notebook())[0].text == "yes"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_busy_server_is_asked_again_when_it_says(server, make_question, status):
    def behave(handler, request, number):
        if number < 2:
            handler.reply(status, b"busy", Retry_After="0.2")
        else:
            handler.say("at last")

    server.behave = behave
    (answer,) = server.judge(concurrency=1).ask([make_question()])
    assert answer.text == "at last"
    assert answer.usage.calls == 3
    first, second, third = (request.began for request in server.requests)
    assert second - first >= 0.2
    assert third - second >= 0.2


def test_request_to_wait_is_meant_for_all_questions(server, make_question):
    def behave(handler, request, number):
        handler.reply(429, b"", Retry_After="0.4") if number == 0 else handler.say("yes")

    server.behave = behave
    server.judge(concurrency=1).ask([make_question()])
    judge = server.judge(concurrency=2, per_minute=1200)  # the second question would be due 50 ms after the first
    server.requests.clear()
    assert [a.text for a in judge.ask([make_question(1), make_question(2), make_question(3)])] == ["yes"] * 3
    first, *others = (request.began for request in server.requests)
    assert sum(other - first < 0.35 for other in others) <= 1  # what was on its way already


def test_date_to_wait_for_is_understood():
    at = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert _retry_after(at) == pytest.approx(30, abs=1.5)  # dates have whole seconds
    assert _retry_after(email.utils.formatdate(0)) == 0


@pytest.mark.parametrize("header", ["3600", "1e300"])
def test_server_that_wants_to_be_left_alone_gets_no_further_request(server, make_question, header):
    server.behave = lambda handler, request, number: handler.reply(429, b"quota", Retry_After=header)
    (answer,) = server.judge().ask([make_question()])
    assert len(server.requests) == 1
    assert "status 429: quota" in answer.reason
    assert "more than max_wait=60" in answer.reason


@pytest.mark.parametrize("header", ["soon", "nan", "-5", "inf", ""])
def test_header_that_says_nothing_means_our_own_wait(server, make_question, header):
    server.behave = lambda handler, request, number: handler.reply(429, b"", Retry_After=header)
    (answer,) = server.judge(retries=1, max_wait=0.05).ask([make_question()])
    assert answer.text is None
    assert len(server.requests) == 2


def test_waits_grow_between_tries(server, make_question):
    server.behave = lambda handler, request, number: handler.reply(500, b"no")
    (answer,) = server.judge(retries=2, max_wait=0.7).ask([make_question()])
    a, b, c = (request.began for request in server.requests)
    assert 0.5 <= b - a < 0.7 <= c - b
    assert (answer.text, answer.reason) == (None, "status 500: no")


def test_client_error_is_not_repeated(server, make_question):
    server.behave = lambda handler, request, number: handler.reply(404, b"no such model\x1b[31m\nreally")
    (answer,) = server.judge().ask([make_question()])
    assert len(server.requests) == 1
    assert answer.reason == "status 404: no such model [31m really"


def test_late_reply_is_a_time_out(server, make_question):
    server.behave = lambda handler, request, number: time.sleep(1.5)
    began = time.monotonic()
    (answer,) = server.judge(timeout=0.2, retries=1, max_wait=0.1).ask([make_question()])
    assert time.monotonic() - began < 1.2
    assert answer.reason == "no whole reply within 0.2 s"
    assert answer.usage.calls == 2


def test_no_server_is_a_reason(server, make_question):
    server.close()
    (answer,) = server.judge(retries=1, max_wait=0.05).ask([make_question()])
    assert answer.reason == "no connection to the server"


def test_rate_is_kept_over_several_calls(server, make_question):
    judge = server.judge(per_minute=600)
    judge.ask([make_question(k) for k in range(3)])
    judge.ask([make_question(k) for k in range(3, 6)])
    began = np.array([request.began for request in server.requests])
    assert np.diff(began).min() > 0.07  # 0.1 less what a loaded machine takes to notice a request


KEY = "sk-a-secret-0123456789"


def test_key_is_sent_and_nowhere_else(server, make_question, monkeypatch, tmp_path, caplog):
    def behave(handler, request, number):
        escaped = KEY.replace("s", "\\u0073")
        told = f'{{"choices": [{{"message": {{"content": "key {escaped}"}}}}], "usage": {{"total_tokens": 5}}}}'
        handler.reply(200, told.encode()) if number else handler.reply(401, f"{'x' * 120} wrong key {KEY}".encode())

    server.behave = behave
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    judge = server.judge(key_variable="JUDGE_KEY", cache=tmp_path / "answers")
    with caplog.at_level("DEBUG"):
        (refused,), (answer,) = judge.ask([make_question(0)]), judge.ask([make_question(1)])
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert answer.text == "key ***"
    kept = "".join(path.read_text() for path in (tmp_path / "answers").rglob("*.json"))
    assert "key ***" in kept
    for place in (kept, refused.reason, answer.text, judge.id, repr(vars(judge)), caplog.text):
        assert KEY[:9] not in place
        assert KEY not in place
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="JUDGE_KEY is not set"):
        judge.ask([make_question(2)])


@pytest.mark.parametrize("key", ["line\nbreak", "schlüssel"])
def test_key_that_fits_no_header_is_refused_without_showing_it(server, monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(ConfigError, match="JUDGE_KEY holds no key") as caught:
        server.judge(key_variable="JUDGE_KEY")
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.org/v1", "must be https for another machine, got http to example.org"),
        ("http://10.0.0.5:8000/v1", "must be https"),
        ("http://localhost.example.org/v1", "must be https"),
        ("http://127.0.0.1.example.org/v1", "must be https"),
        ("ftp://localhost/v1", "url must be where the protocol begins"),
        ("localhost:8000", "url must be where"),
        ("http://localhost:99999/v1", "url must be where"),
        ("https://example.org/v1?key=1", "url must be where"),
        ("https://user:word@example.org/v1", "no name and password"),
        ("http:///v1", "url must be where"),
        (None, "url must be where"),
        (8000, "url must be where"),
    ],
)
def test_address_that_is_none_or_not_safe_is_refused(url, message):
    with pytest.raises(ConfigError, match=message):
        HttpJudge(url, "m")


@pytest.mark.parametrize(
    "url", ["http://localhost:8000/v1", "http://127.9.9.9/v1/", "http://[::1]:8000/v1", "https://example.org/v1"]
)
def test_safe_address_is_taken(url):
    assert HttpJudge(url, "m").id.startswith(f"http {url.rstrip('/')}/chat/completions m ")


def test_http_to_another_machine_is_possible_when_asked_for():
    HttpJudge("http://10.0.0.5:8000/v1", "m", insecure=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"retries": -1},
        {"retries": 1.5},
        {"concurrency": 0},
        {"per_minute": 0},
        {"per_minute": True},
        {"budget_calls": -1},
        {"budget_tokens": 0.5},
        {"picture_tokens": 0},
        {"top_logprobs": 1},
        {"model": " "},
        {"model": None},
        {"parameters": [1]},
        {"parameters": {"n": 2}},
        {"parameters": {"max_tokens": None}},
        {"parameters": {"max_tokens": 4096.0}},
    ],
    ids=str,
)
def test_setting_out_of_range_is_refused(settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=name):
        HttpJudge(**{"url": "http://localhost/v1", "model": "m", **settings})


def test_log_probabilities_of_first_tokens_are_those_of_the_words(server, make_question):
    server.behave = lambda handler, request, number: handler.say_likely(
        {"True": -0.5, " True": -2.0, "False": -1.5, "The": -3.0}
    )
    (answer,) = server.judge(top_logprobs=7).ask([make_question(continuations=("True", "False"), max_tokens=30)])
    body = server.requests[0].body
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 7, 1)
    assert answer.logprobs is not None
    yes, no = answer.logprobs
    assert yes.low == pytest.approx(np.logaddexp(-0.5, -2.0), abs=1e-12)
    assert yes.exact
    assert no == (-1.5, -1.5)


def test_cached_answer_costs_nothing_and_another_question_is_no_hit(server, make_question, tmp_path):
    folder = tmp_path / "answers"
    server.behave = lambda handler, request, number: handler.say(f"answer {number}")
    question = make_question(1)
    (first,) = server.judge(cache=folder).ask([question])
    again = server.judge(cache=folder, retries=0, timeout=9)  # what has no part in the answer
    (second,) = again.ask([question])
    assert first.text == second.text == "answer 0"
    assert (second.usage.calls, second.usage.tokens, second.usage.cached) == (0, 0, 1)
    assert len(server.requests) == 1
    picture = question.parts[1].copy()
    picture[0, 0, 0] ^= 1
    others = [
        (server.judge(cache=folder, model="other"), question),
        (server.judge(cache=folder, parameters={"seed": 1}), question),
        (again, make_question(1, max_tokens=65)),
        (again, make_question(1, continuations=("a", "b"))),
        (again, type(question)((question.parts[0], picture, question.parts[2]))),
        (again, type(question)((question.parts[0], question.parts[1].reshape(8, 6, 3), question.parts[2]))),
        (again, type(question)((question.parts[1], question.parts[0], question.parts[2]))),
    ]
    for number, (judge, other) in enumerate(others, 2):
        judge.ask([other])
        assert len(server.requests) == number


def test_failure_is_not_kept(server, make_question, tmp_path):
    server.behave = lambda handler, request, number: handler.say("yes") if number else handler.reply(200, b"{}")
    judge = server.judge(cache=tmp_path)
    assert judge.ask([make_question()])[0].text is None
    assert judge.ask([make_question()])[0].text == "yes"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": 1}', b"[" * 100_000, b"\xff\xfe", b"null"])
def test_damaged_file_of_the_cache_is_asked_anew(server, make_question, tmp_path, content):
    judge = server.judge(cache=tmp_path)
    judge.ask([make_question()])
    (path,) = tmp_path.rglob("*.json")
    whole = path.read_bytes()
    path.write_bytes(content)
    assert judge.ask([make_question()])[0].text == "yes"
    assert len(server.requests) == 2
    assert json.loads(path.read_bytes()) == json.loads(whole)
