"""Score the frames of a vector environment in large batches, on a thread, while the environments step.

Every vec step has a ticket, an increasing number. Frames wait in shared memory until ``encode_batch`` of them are
there, or until a reward is asked for; batches are cut only at vec steps and only by such counts, so that the same seed
gives the same batches. Buffers ask for the rewards of a range of tickets.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vlmreward.errors import CheckpointError, ConfigError
from vlmreward.types import BoolArray, Encoder, FloatArray, Frames, RewardModel
from vlmreward.wrappers.frame_gate import FrameGate, GateCounts
from vlmreward.wrappers.frame_ring import FrameRing
from vlmreward.wrappers.relabelling import LearnedRows, does_learn
from vlmreward.wrappers.score_table import EpisodeScore, ScoreTable
from vlmreward.wrappers.scoring import FrameScorer, ScoredRows, Transform, gather
from vlmreward.wrappers.worker_thread import WorkerThread


class Scores(NamedTuple):
    """The rewards of n vec steps of ``n_envs`` environments; all arrays but ``parts`` have shape (n, n_envs).

    Attributes:
        raw: Raw rewards, float32; 0 where not valid.
        valid: True where the frame was scored.
        env_reward: The environments' own rewards, float32.
        scored: False where the reward is not known yet (context ``"episode"``, a running episode).
        step: Number of the step in its episode, from 1, int64.
        parts: The parts that the transform needs, float32, shape (n, n_envs, number of parts); 0 where not valid.
        learned: What rows are labelled anew from, where the reward learns.
    """

    raw: FloatArray
    valid: BoolArray
    env_reward: FloatArray
    scored: BoolArray
    step: npt.NDArray[np.int64]
    parts: FloatArray
    learned: LearnedRows | None = None


class Observer(Protocol):
    """Sees the frames that a scorer has scored, on the scorer's thread."""

    def observe(self, scored: ScoredRows, pictures: Frames, index: npt.NDArray[np.int64]) -> None:
        """Look at the rows of a job.

        Args:
            scored: K rows.
            pictures: uint8, shape (U, H, W, 3); not kept by the scorer.
            index: Which of them each row shows, shape (K,); -1 for none.
        """
        ...


class Scorer:
    """Owns the frame ring, the scoring thread and the per-environment state of one vector environment.

    An error of the encoder or the reward model is raised by the next call, whichever that is.

    Args:
        encoder: Frozen encoder; None for a model that looks at pixels alone.
        reward_model: Turns embeddings (or frames) into raw rewards.
        transform: From raw rewards to what is learned; applied by the buffers.
        encode_batch: Number of frames that are encoded together.
        instruction: Handed to the reward model with every batch.
        gate: Decides which frames are encoded; None: all.

    Attributes:
        observer: Sees every transition's frame when it is scored; None: nobody does.

    Raises:
        ConfigError: ``encode_batch`` is below 1, or the model needs what can't be given.

    Example:
        >>> scorer = Scorer(encoder, reward_model, RewardTransform())  # doctest: +SKIP
        >>> venv = VecCaptureFrames(env_fns, scorer=scorer)  # doctest: +SKIP
        >>> PPO("MlpPolicy", venv, rollout_buffer_class=ScoredRolloutBuffer,  # doctest: +SKIP
        ...     rollout_buffer_kwargs={"scorer": scorer}).learn(10_000)
    """

    def __init__(
        self,
        encoder: Encoder | None,
        reward_model: RewardModel,
        transform: Transform,
        encode_batch: int = 256,
        instruction: str = "",
        gate: FrameGate | None = None,
    ) -> None:
        if encode_batch < 1:
            raise ConfigError(f"encode_batch must be at least 1, got {encode_batch}: set the frames encoded together")
        self.encoder = encoder
        self.reward_model = reward_model
        self.transform = transform
        self.encode_batch = encode_batch
        self.instruction = instruction
        self.gate = gate
        self.observer: Observer | None = None
        FrameScorer(encoder, reward_model, 1, gate=gate)  # refuse what can't work now, not when environments were built
        self._worker = WorkerThread("vlmreward-scorer")
        self._table: ScoreTable | None = None
        self._frames: FrameScorer | None = None
        self._ring: FrameRing | None = None
        self._history = 4 * encode_batch
        self._attached = False
        self._free: deque[int] = deque()
        self._pending: list[np.ndarray] = []
        self._n_pending = 0
        self._last = -1  # newest ticket
        self._posted = -1  # newest ticket that was handed to the thread
        self._done = -1  # newest ticket that the thread has finished
        self._asked = -1  # newest ticket that was asked for
        self._totals: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._gate_counts = GateCounts()  # of the jobs that are counted in the totals

    @property
    def last_ticket(self) -> int:
        """Ticket of the newest vec step; -1 before the first."""
        return self._last

    # The environments' side: used by VecCaptureFrames.

    def open_ring(self, n_envs: int, frame_shape: tuple[int, int, int]) -> FrameRing:
        """Make the ring for a vector environment and take it on.

        Args:
            n_envs: Number of environments.
            frame_shape: (H, W, 3).

        Raises:
            ConfigError: The scorer serves another vector environment that is not closed.
            StorageError: There is no room for the ring.
        """
        if self._attached:
            raise ConfigError("this scorer serves another vector environment: close that one or build a second scorer")
        self.flush()
        # Beside the two halves of the ring each environment always holds a slot for its next step and next reset.
        ring = FrameRing.create(2 * self.encode_batch + 2 * n_envs, n_envs, frame_shape)
        self._ring, self._attached = ring, True
        self._free = deque(range(ring.spec.slots))
        if self.gate is not None:
            self.gate.forget()
        self._frames = FrameScorer(
            self.encoder, self.reward_model, n_envs, self.instruction, self.transform.parts, self.gate
        )
        dim = self.encoder.dim if self.encoder is not None and does_learn(self.reward_model) else 0
        self._table = ScoreTable(n_envs, self._history, self._last, len(self.transform.parts), dim)
        return ring

    def release_ring(self) -> None:
        """Let another vector environment take the scorer; frames that wait can still be scored."""
        self._attached = False

    def take_slots(self, count: int) -> npt.NDArray[np.int64]:
        """Return free slots of the ring, waiting for the thread when it is full."""
        start = time.perf_counter()
        self._worker.wait_for(lambda: len(self._free) >= count)
        self._seconds["wait"] += time.perf_counter() - start
        with self._worker.changed:
            return np.array([self._free.popleft() for _ in range(count)], dtype=np.int64)

    def submit(self, steps: np.ndarray, resets: np.ndarray) -> int:
        """Take the frames of one vec step.

        Args:
            steps: ``ROW_DTYPE``, one row per environment, in order; empty for a vec reset.
            resets: ``ROW_DTYPE``, the frames of resets, each after the step of its environment.

        Returns:
            The ticket of the step; that of the last step for a vec reset.
        """
        assert self._table is not None
        assert self._frames is not None
        self._worker.check()
        if len(steps):
            self._last += 1
            steps["ticket"] = self._last
            with self._worker.changed:
                self._table.open(steps)
        if not self._frames.needs_reset_frames:
            self._give_back(resets)
            resets = resets[:0]
        if len(steps) or len(resets):
            self._pending.append(np.concatenate([steps, resets]))
            self._n_pending += len(self._pending[-1])
        if self._n_pending >= self.encode_batch:
            self.post()
        return self._last

    # The learner's side: used by the buffers.

    def post(self) -> None:
        """Hand the waiting frames to the thread, without waiting for their rewards."""
        self._worker.check()
        if not self._pending:
            return
        rows = np.concatenate(self._pending)
        self._pending, self._n_pending = [], 0
        self._posted = last = self._last
        self._worker.post(lambda: self._run(rows, last))

    def flush(self) -> None:
        """Score every frame captured so far, and wait for it.

        Raises:
            BaseException: What the encoder or the reward model raised.
        """
        self.post()
        start = time.perf_counter()
        self._worker.drain()
        self._seconds["wait"] += time.perf_counter() - start

    def scores(self, first: int, last: int) -> Scores:
        """Return the rewards of the tickets ``first`` to ``last``, both included; blocks until they are known.

        Raises:
            ValueError: There are no such tickets, or they were given up (see :meth:`require_history`).
            BaseException: What the encoder or the reward model raised.
        """
        if self._table is None or not self._table.oldest <= first <= last <= self._last:
            known = "none" if self._table is None else f"{self._table.oldest} to {self._last}"
            raise ValueError(f"no scores of tickets {first} to {last}: known are {known}")
        if last > self._posted:
            self.post()
        start = time.perf_counter()
        self._worker.wait_for(lambda: self._done >= last)
        self._seconds["wait"] += time.perf_counter() - start
        self._asked = max(self._asked, last)
        with self._worker.changed:
            return Scores(*self._table.read(first, last), self._table.read_learned(first, last))

    def require_history(self, tickets: int) -> None:
        """Keep the rewards of at least this many newest tickets."""
        self._history = max(self._history, tickets)
        if self._table is not None:
            with self._worker.changed:
                self._table.grow(self._history)

    def pop_episodes(self) -> list[EpisodeScore]:
        """Return the episodes that ended since the last call, among those whose rewards were asked for."""
        if self._table is None:
            return []
        with self._worker.changed:
            return self._table.pop_episodes(self._asked)

    # Numbers.

    def stats(self) -> dict[str, Any]:
        """Return counts since the scorer was built.

        Returns:
            ``rows`` and ``invalid`` (transitions scored), ``reasons`` (why, counted), ``frames`` and ``pictures``
            (captured frames, and distinct ones that were encoded), ``encode_calls``, and seconds: ``encode_seconds``,
            ``env_seconds`` and ``render_seconds`` (both summed over environments), ``wait_seconds`` (the main thread
            waited for scores); and ``gate``, the :class:`GateCounts` of the gate.
        """
        with self._worker.changed:
            totals, reasons, gate = self._totals.copy(), dict(self._reasons), self._gate_counts
        result: dict[str, Any] = {k: totals[k] for k in ("rows", "invalid", "frames", "pictures", "encode_calls")}
        result |= {"reasons": reasons, "gate": gate}
        return result | {f"{name}_seconds": self._seconds[name] for name in ("encode", "env", "render", "wait")}

    def add_seconds(self, name: str, seconds: float) -> None:
        """Count time that was spent in the environments' processes."""
        self._seconds[name] += seconds

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain numbers: a run resumes at an episode's start, without frames."""
        self.flush()
        return {"transform": dict(self.transform.state_dict()), "encoder_id": self._encoder_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned.

        Raises:
            CheckpointError: It is not a scorer's state, or that of another encoder.
        """
        if "transform" not in state:
            raise CheckpointError(f"the scorer's state must hold 'transform', got {sorted(state)}: was it damaged?")
        if state.get("encoder_id") != self._encoder_id:
            raise CheckpointError(
                f"the run was scored by encoder {state.get('encoder_id')}, this one is {self._encoder_id}: go on with "
                "the version of vlmreward, or the weights, that it began with"
            )
        self.transform.load_state_dict(state["transform"])

    @property
    def _encoder_id(self) -> str | None:
        return None if self.encoder is None else self.encoder.id

    def close(self) -> None:
        """Stop the thread after its running batch; frames that wait are dropped."""
        self._worker.close()

    # The thread's side.

    def _run(self, rows: np.ndarray, last: int) -> None:
        ring, frames, table = self._ring, self._frames, self._table
        assert ring is not None
        assert frames is not None
        assert table is not None
        gathered = gather(rows, ring.frames)
        self._give_back(rows)  # the pictures are copied: the environments may go on while they are encoded
        scored = frames.score(rows, gathered)
        if self.observer is not None:
            self.observer.observe(scored, gathered.unique, gathered.index[~rows["reset"]])
        with self._worker.changed:
            table.store(scored)
            self._done = last
            self._reasons.update(scored.reasons.values())
            self._seconds["encode"] += scored.seconds
            self._totals.update(
                rows=len(scored.rows),
                invalid=int((~scored.valid).sum()),
                frames=len(rows),
                pictures=scored.pictures,
                encode_calls=int(scored.pictures > 0),
            )
            if self.gate is not None:
                self._gate_counts = self.gate.counts

    def _give_back(self, rows: np.ndarray) -> None:
        with self._worker.changed:
            self._free.extend(rows["slot"].tolist())
            self._worker.changed.notify_all()
