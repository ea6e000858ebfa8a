"""Whatever a server sends, in whatever way: a reason within the time-out, never a number and never an exception."""

import gzip
import json
import time

import numpy as np
import pytest

from vlmreward.rewards.judges.http_judge import MOST_BYTES
from vlmreward.rewards.judges.rubric import RubricReward
from vlmreward.rewards.judges.yes_no import YesNoReward
from vlmreward.types import FrameBatch


def choices(content, **more):
    return json.dumps({"choices": [{"message": {"content": content}, **more}]}).encode()


def drip_body(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.03)


def drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for k in range(100):
        handler.wfile.write(f"X-{k}: y\r\n".encode())
        handler.wfile.flush()
        time.sleep(0.03)


def endless_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(20_000):
        handler.wfile.write(b"X-More: " + b"y" * 1000 + b"\r\n")


def endless_body(handler):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for _ in range(10_000):
        handler.wfile.write(b"10000\r\n" + b" " * 65536 + b"\r\n")


def endless_interim(handler):
    for _ in range(100_000):
        handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def half_a_body(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.close_connection = True


def hang_up(handler):
    handler.close_connection = True


def garbage(handler):
    handler.wfile.write(b"\x00\x01\x02 not http at all\r\n\r\n")
    handler.close_connection = True


def compressed(handler):
    handler.reply(200, gzip.compress(b" " * 50_000_000), Content_Encoding="gzip")


def plain(body, status=200, **headers):
    return lambda handler: handler.reply(status, body, **headers)


BOUNDED = "1.5e308"
HOSTILE = {
    "drip of the body": drip_body,
    "drip of headers": drip_headers,
    "endless headers": endless_headers,
    "endless body": endless_body,
    "endless interim replies": endless_interim,
    "half a body": half_a_body,
    "hang up": hang_up,
    "garbage": garbage,
    "compressed bomb": compressed,
    "too long": plain(choices("3" + " " * MOST_BYTES)),
    "empty": plain(b""),
    "not JSON": plain(b"<html>3</html>"),
    "not text": plain(b"\xff\xfe\x00"),
    "half JSON": plain(b'{"choices": [{"message": {"content": "3'),
    "deep JSON": plain(b"[" * 200_000),
    "long number": plain(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "a list": plain(b"[]"),
    "a number": plain(b"3"),
    "null": plain(b"null"),
    "nothing in it": plain(b"{}"),
    "no choice": plain(b'{"choices": []}'),
    "choices of another type": plain(b'{"choices": {"0": {"message": {"content": "3"}}}}'),
    "message of another type": plain(b'{"choices": [{"message": "3"}]}'),
    "content is a number": plain(choices(3)),
    "content is null": plain(choices(None)),
    "content is a list": plain(choices(["3"])),
    "content is true": plain(choices(True)),
    "refusal": plain(b'{"choices": [{"message": {"content": null, "refusal": "I will not\\ngrade 3"}}]}'),
    "filtered": plain(choices("3", finish_reason="content_filter")),
    "error with status 200": plain(b'{"error": {"message": "out of memory, 3 times"}}'),
    "no content": plain(b"", 204),
    "created": plain(choices("3"), 201),
    "redirect": plain(b"", 302, Location="{other}/chat/completions"),
    "redirect that keeps the method": plain(b"", 307, Location="{other}/chat/completions"),
    "redirect with an answer": plain(choices("3"), 308, Location="{other}/chat/completions"),
    "unauthorised": plain(choices("3"), 401),
    "server error with an answer": plain(choices("3"), 500),
    "unknown status": plain(choices("3"), 799),
}
WRONG_TEXTS = [
    "",
    "no idea",
    "\ud83d",
    "0",
    "6",
    "35",
    "2 or 3",
    "between 3-4",
    "3/10",
    "-3",
    "3.5",
    "three",
    "1000000",
]
WRONG_TEXTS += ["I see 2 cubes", "4 or so", "Frame 3", "grade: 7", "3 or\n no"]
WRONG_LOGPROBS = {
    "none": {},
    "null": {"logprobs": None},
    "no content": {"logprobs": {"content": []}},
    "no list": {"logprobs": {"content": [{"top_logprobs": {"True": -1}}]}},
    "empty list": {"logprobs": {"content": [{"top_logprobs": []}]}},
    "text": {"logprobs": {"content": [{"top_logprobs": [{"token": "True", "logprob": "-1"}]}]}},
    "not a number": {"logprobs": {"content": [{"top_logprobs": [{"token": "True", "logprob": float("nan")}]}]}},
    "minus infinity": {"logprobs": {"content": [{"top_logprobs": [{"token": "True", "logprob": -float("inf")}]}]}},
    "above 0": {"logprobs": {"content": [{"top_logprobs": [{"token": "True", "logprob": 0.7}]}]}},
    "true": {"logprobs": {"content": [{"top_logprobs": [{"token": "True", "logprob": False}]}]}},
    "huge": {"logprobs": {"content": [{"top_logprobs": [{"token": "True", "logprob": -(10**400)}]}]}},
    "token is a number": {"logprobs": {"content": [{"top_logprobs": [{"token": 1, "logprob": -1}]}]}},
    "other words": {"logprobs": {"content": [{"top_logprobs": [{"token": "Yes", "logprob": -0.1}]}]}},
    "beginning only": {"logprobs": {"content": [{"top_logprobs": [{"token": "Tr", "logprob": -0.1}]}]}},
}


def batch():
    frames = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(1, 4, 4, 3)
    return FrameBatch(np.zeros(1, np.int64), np.ones(1, np.int64), frames=frames)


def check_nothing_is_scored(model):
    began = time.monotonic()
    scored = model.compute_reward(batch())
    assert time.monotonic() - began < 5  # 0.5 on an idle machine
    assert not scored.valid.any()
    assert np.isnan(scored.reward).all()
    assert scored.reasons[0]
    assert scored.reasons[0].isprintable()
    assert len(scored.reasons[0]) < 300
    return scored.reasons[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_reply_is_a_reason(server, other_server, name):
    server.behave = lambda handler, request, number: HOSTILE[name](handler)
    judge = server.judge(retries=0, timeout=0.5, parameters={})
    reason = check_nothing_is_scored(RubricReward(judge, "stand up"))
    assert reason.startswith("the judge gave no answer: ")
    assert judge.usage.calls == 1
    assert len(server.requests) <= 1
    assert other_server.requests == []


@pytest.mark.parametrize("status", [302, 307, 308])
def test_redirect_to_elsewhere_is_not_followed(server, other_server, status):
    server.behave = lambda handler, request, number: handler.reply(status, b"", Location=other_server.url)
    assert "redirects" in check_nothing_is_scored(RubricReward(server.judge(), "stand up"))
    assert (len(server.requests), other_server.requests) == (1, [])


@pytest.mark.parametrize("text", WRONG_TEXTS, ids=ascii)
def test_reply_that_is_no_grade_keeps_its_text(server, text):
    server.behave = lambda handler, request, number: handler.say(text)
    reason = check_nothing_is_scored(RubricReward(server.judge(), "stand up"))
    assert reason.startswith("the reply is not one grade from 1 to 5: ")
    assert reason.endswith(" ".join(text.encode("utf-8", "replace").decode().split()))


def test_long_reply_is_cut_and_tamed(server):
    server.behave = lambda handler, request, number: handler.say("\x1b[2J evil\n" + "x" * 100_000)
    reason = check_nothing_is_scored(RubricReward(server.judge(), "stand up"))
    assert reason.endswith("x...")
    assert "[2J evil xxx" in reason


@pytest.mark.parametrize("name", WRONG_LOGPROBS)
def test_hostile_log_probability_is_a_reason(server, name):
    server.behave = lambda handler, request, number: handler.say("True", **WRONG_LOGPROBS[name])
    check_nothing_is_scored(YesNoReward(server.judge(retries=0), "stand up"))
    check_nothing_is_scored(YesNoReward(server.judge(retries=0), "stand up", value="log_probability"))


@pytest.mark.parametrize("usage", [None, 7, {"total_tokens": -5}, {"total_tokens": "9"}, {"total_tokens": True}, []])
def test_cost_that_is_none_counts_as_what_was_reserved(server, make_question, usage):
    body = json.dumps({"choices": [{"message": {"content": "yes"}}], "usage": usage}).encode()
    server.behave = lambda handler, request, number: handler.reply(200, body)
    (answer,) = server.judge(picture_tokens=500).ask([make_question(max_tokens=10)])
    assert answer.text == "yes"
    assert answer.usage.tokens == 64 + len("question 0:  is it done?") + 500 + 10
