"""Budgets are never exceeded, by the server's own count, whatever it answers and however much is under way."""

import time

import numpy as np
import pytest


def test_no_more_calls_are_sent_than_the_budget_has(server, make_question):
    server.behave = lambda handler, request, number: (time.sleep(0.05), handler.say("yes"))
    judge = server.judge(budget_calls=7, concurrency=8)
    answers = judge.ask([make_question(k) for k in range(20)])
    assert len(server.requests) == 7
    assert sum(a.text == "yes" for a in answers) == 7
    assert {a.reason for a in answers if a.text is None} == {"the budget of 7 calls is used up"}
    judge.ask([make_question(99)])
    assert len(server.requests) == 7


def test_retries_are_calls(server, make_question):
    server.behave = lambda handler, request, number: handler.reply(503, b"", Retry_After="0")
    judge = server.judge(budget_calls=5, concurrency=3, retries=9)
    answers = judge.ask([make_question(k) for k in range(6)])
    assert len(server.requests) == 5
    assert all("budget of 5 calls is used up" in a.reason for a in answers)


def test_tokens_are_reserved_before_and_given_back_after(server, make_question):
    server.behave = lambda handler, request, number: (time.sleep(0.02), handler.say("yes", tokens=500))
    judge = server.judge(budget_tokens=10_000, concurrency=8)
    answers = judge.ask([make_question(k, max_tokens=10) for k in range(40)])
    reserved = 64 + len("question 10:  is it done?") + 3000 + 10
    # one more is sent as long as it might fit beside what is spent
    assert len(server.requests) in {(10_000 - reserved) // 500 + 1, (10_000 - reserved) // 500 + 2}
    assert server.tokens <= 10_000
    assert judge.usage.tokens == server.tokens
    assert {a.reason.split(":")[0] for a in answers if a.text is None} == {"the budget of 10000 tokens is used up"}


@pytest.mark.parametrize("seed", range(4))
def test_budget_holds_when_anything_may_happen(server, make_question, seed):
    rng = np.random.default_rng(seed)
    fates = rng.choice(["answer", "busy", "broken", "hang up", "late", "nonsense"], 400).tolist()
    costs = rng.integers(1, 600, 400)

    def behave(handler, request, number):
        time.sleep(float(costs[number]) / 60_000)
        fate = fates[number]
        if fate == "answer":
            handler.say("yes", tokens=int(costs[number]))
            return
        if fate != "busy":  # the work may have been done all the same
            with server.lock:
                server.tokens += int(costs[number])
        if fate == "late":
            time.sleep(0.3)
        elif fate == "hang up":
            handler.close_connection = True
        else:
            handler.reply({"busy": 429, "broken": 500, "nonsense": 200}[fate], b"no", Retry_After="0.01")

    server.behave = behave
    limits = {"budget_calls": 40, "budget_tokens": 9000, "picture_tokens": 500}
    judge = server.judge(concurrency=6, timeout=0.15, max_wait=0.05, retries=3, **limits)
    answers = [a for k in range(0, 60, 20) for a in judge.ask([make_question(k + i, max_tokens=16) for i in range(20)])]
    time.sleep(0.3)  # what was given up is over
    assert len(server.requests) <= 40
    assert server.tokens <= 9000
    assert judge.usage.calls >= len(server.requests)  # some are given up before a busy server sees them
    assert all((a.text == "yes") != bool(a.reason) for a in answers)


def test_server_that_takes_more_than_the_bound_is_reckoned_with_from_then_on(server, make_question):
    server.behave = lambda handler, request, number: handler.say("yes", tokens=5000)
    judge = server.judge(budget_tokens=12_000, picture_tokens=100, concurrency=1)
    judge.ask([make_question(k) for k in range(5)])
    assert len(server.requests) == 2
