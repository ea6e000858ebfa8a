"""Annotations in, versions of a head out, beside an agent that is trained.

One thread draws questions from the agent's frames, asks the annotator and fits a head; the main thread only hands work
over and takes heads, so that environments never wait for an annotator (unless ``wait`` is set, for runs that can be
repeated). Preferences and ratings differ in their questions alone. Buffers see the new version and label their rows
anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.agents.online.frame_pool import FramePool
from vlmreward.agents.online.head_fit import FitSettings, fit_head
from vlmreward.agents.online.questions import NOTHING, Examples, Told, make_questions
from vlmreward.errors import CheckpointError
from vlmreward.rewards.annotators.answers import Comparer, Rater
from vlmreward.rewards.head import Head, HeadMeta
from vlmreward.rewards.learned import LearnedReward
from vlmreward.types import FloatArray, Frames
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.worker_thread import WorkerThread

LEAST = 16
"""Answers from which on a head is fitted."""

MOST_REASONS = 10
"""Reasons of invalid answers that a report names, the most frequent ones."""


class OnlineLearner:
    """Learns the head of one reward.

    Calls that were made after the last checkpoint are not known to a run that is resumed from it.

    Args:
        model: The reward; it gets the heads.
        scorer: Of the agent's frames; it gets an observer. None where there is no agent: see :meth:`learn_from`.
        seed: Of every draw.

    Raises:
        ConfigError: The annotator does not answer such questions, or a setting of it is wrong.
    """

    def __init__(self, model: LearnedReward, scorer: Scorer | None, seed: int) -> None:
        self.model, self.schedule = model, model.schedule
        self._scorer, self._seed = scorer, seed
        self._questions = make_questions(model)
        self._pool = FramePool(self.schedule.pool, self.schedule.keep_every, " / ".join(model.goal))
        if scorer is not None:
            scorer.observer = self._pool
        self._worker = WorkerThread("vlmreward-annotator")
        self._next = self.schedule.every  # step of the next batch
        self._waiting = 0  # batches that are handed over and not answered; guarded by the worker's condition, as are:
        self._newest: Head | None = None
        self._examples: Examples = NOTHING
        self._counts: Counter[str] = Counter()
        self._answers: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()  # of invalid answers
        self._calls_before = 0  # in earlier sessions of the run
        self._loss: float | None = None

    def step(self, num_timesteps: int) -> None:
        """Hand over a batch if it is time, and take a new head if there is one; never waits unless ``wait`` is set.

        Args:
            num_timesteps: Steps of the environments so far.

        Raises:
            BaseException: What the annotator or the fit raised.
        """
        self._worker.check()
        if num_timesteps >= self._next:
            self._next = (num_timesteps // self.schedule.every + 1) * self.schedule.every
            self._hand_over()
        with self._worker.changed:
            newest = self._newest
        if newest is not None and newest.version > self.model.version:
            self.model.use(newest)

    def learn_from(
        self,
        frames: Frames,
        embeddings: FloatArray,
        env_reward: FloatArray,
        progress: Callable[[int], None] = lambda calls: None,
    ) -> None:
        """Spend the budget on frames that there are, without an agent.

        Args:
            frames: uint8, shape (N, H, W, 3), at most ``pool`` of them.
            embeddings: Of them, shape (N, D).
            env_reward: The recorded reward of the steps that led to them, shape (N,); NaN where there is none.
            progress: Gets the calls so far after every batch.

        Raises:
            BaseException: What the annotator or the fit raised.
        """
        self._pool.add(frames, embeddings, env_reward)
        while self.calls + self._questions.cost <= self.schedule.budget:
            before = self.calls
            self._hand_over()
            self._worker.drain()
            progress(self.calls)
            if self.calls == before:
                break  # there is nothing to ask about these frames
        self.step(0)

    @property
    def annotator(self) -> Comparer | Rater:
        """Who answers."""
        return self._questions.annotator

    @property
    def privileged(self) -> bool:
        """Whether who answers reads more than the frames."""
        return self._questions.privileged

    @property
    def calls(self) -> int:
        """Calls of the annotator so far, over all sessions of the run."""
        return self._calls_before + self._questions.calls

    def _hand_over(self) -> None:
        if self.calls + self._questions.cost > self.schedule.budget:
            return
        if self.schedule.wait and self._scorer is not None:
            self._scorer.flush()  # the pool and the rows of the present head are the same in every run
        with self._worker.changed:
            if self._waiting >= self.schedule.waiting:
                self._counts["dropped"] += 1
                return
            self._waiting += 1
            number = self._counts["batches"] = self._counts["batches"] + 1
        self._worker.post(lambda: self._work(number))
        if self.schedule.wait:
            self._worker.drain()

    def _work(self, number: int) -> None:
        """Ask one batch and fit; runs on the thread."""
        affordable = (self.schedule.budget - self.calls) // self._questions.cost
        rng = np.random.default_rng([self._seed, 11, number])
        query = self._questions.draw(
            self._pool, self._newest, rng, min(self.schedule.batch, affordable), self._examples
        )
        told = Told() if query is None else self._questions.ask(query)
        examples = self._examples.joined(told.examples) if len(told.examples) else self._examples
        head, loss = self._newest, self._loss
        if len(told.examples) and len(examples) >= LEAST:
            head, loss = self._fit(examples)
        with self._worker.changed:
            self._waiting -= 1
            self._counts["questions"] += 0 if query is None else len(query)
            self._answers += told.answers
            self._reasons += told.reasons
            self._examples, self._newest, self._loss = examples, head, loss

    def _fit(self, examples: Examples) -> tuple[Head, float]:
        version = 1 if self._newest is None else self._newest.version + 1
        settings = FitSettings(self.schedule.fit_steps, self.schedule.lapses)
        net, loss = fit_head(self.model.settings, examples, settings, (self._seed, 12, version))
        encoder = self.model.encoder
        made = {
            "annotator": str(self.model.annotator.get("name")),
            "examples": len(examples),
            "calls": self.calls,
            "privileged": self.privileged,
        }
        return Head(net, HeadMeta(self.model.name, encoder.id, encoder.licence, self.model.goal, version, made)), loss

    def log_values(self) -> dict[str, float]:
        """Return numbers for the log, by key."""
        report = self.report()
        values = {f"head/{name}": float(report[name]) for name in ("version", "calls", "examples", "dropped")}
        return values if report["loss"] is None else {**values, "head/loss": report["loss"]}

    def report(self) -> dict[str, Any]:
        """Return what a result says of the annotator and the head."""
        with self._worker.changed:
            return {
                "annotator": dict(self.model.annotator),
                "privileged": self.privileged,
                "calls": self.calls,
                "budget": self.schedule.budget,
                "questions": self._counts["questions"],
                "answers": dict(self._answers),
                "reasons": dict(self._reasons.most_common(MOST_REASONS)),
                "alike": getattr(self._questions, "skipped", 0),
                "dropped": self._counts["dropped"],
                "examples": len(self._examples),
                "version": self.model.version,
                "loss": self._loss,
            }

    def save_head(self, path: Path) -> None:
        """Write the head that is in use, if there is one."""
        if self.model.head is not None:
            self.model.head.save(path)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; frames are not kept, and the pool fills again."""
        with self._worker.changed:
            return {
                "next": self._next,
                "calls": self.calls,
                "counts": dict(self._counts),
                "answers": dict(self._answers),
                "reasons": dict(self._reasons),
                "loss": self._loss,
                "x": self._examples.x,
                "target": self._examples.target,
                "head": None if self._newest is None else self._newest.state_dict(),
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            CheckpointError: It is damaged.
        """
        try:
            head = None if state["head"] is None else Head.from_state(state["head"])
            with self._worker.changed:
                self._next, self._calls_before = int(state["next"]), int(state["calls"]) - self._questions.calls
                self._counts, self._answers = Counter(state["counts"]), Counter(state["answers"])
                self._reasons = Counter(state["reasons"])
                self._loss, self._examples = state["loss"], Examples(state["x"], state["target"])
                self._newest = head
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"the learner's state is damaged ({' '.join(str(e).split())}): train again") from e
        self.model.head = None
        if head is not None:
            self.model.use(head)

    def close(self) -> None:
        """Stop after the running batch; batches that wait are dropped."""
        self._worker.close()
