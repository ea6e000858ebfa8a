"""Score every step of a vector environment at once; see ``replace_reward`` for what that means."""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from vlmreward.errors import ConfigError
from vlmreward.wrappers.replace_reward import VLM_REWARD_KEY, check_per_step, refuse_step
from vlmreward.wrappers.vec_capture_frames import TICKET_KEY, VecCaptureFrames


class VecReplaceReward(VecEnvWrapper):
    """Replaces the rewards of a VecCaptureFrames, at every step, with one encoder call for all environments.

    ``info`` gains ``vlm_reward`` as with ``ReplaceReward``.

    Args:
        venv: A VecCaptureFrames, or wrappers of it.

    Raises:
        ConfigError: There is no VecCaptureFrames inside, or there is a VecNormalize, or the model can't score a step
            when it happens.
    """

    def __init__(self, venv: VecEnv) -> None:
        layer = venv
        while not isinstance(layer, VecCaptureFrames):
            if not isinstance(layer, VecEnvWrapper):
                raise ConfigError(f"VecReplaceReward needs a VecCaptureFrames inside, got {type(layer).__name__}")
            if isinstance(layer, VecNormalize):
                # Off-policy algorithms store the rewards that VecNormalize was given, here the placeholders.
                raise ConfigError("VecReplaceReward got a VecNormalize inside: put the VecNormalize around it")
            layer = layer.venv
        check_per_step(layer.scorer.reward_model)
        super().__init__(venv)
        self._scorer = layer.scorer

    def reset(self) -> VecEnvObs:
        """Reset every environment."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step and for its rewards.

        Raises:
            RenderingError: A frame could not be scored.
        """
        obs, _, dones, infos = self.venv.step_wait()
        ticket = infos[0][TICKET_KEY]
        scores = self._scorer.scores(ticket, ticket)
        raw, valid, env_reward, parts = scores.raw[0], scores.valid[0], scores.env_reward[0], scores.parts[0]
        if not valid.all():
            refuse_step(", ".join(self._scorer.stats()["reasons"]) or "unknown reason")
        self._scorer.transform.update(raw, valid, env_reward, parts)
        rewards = self._scorer.transform.apply(raw, env_reward, parts)
        for info, value in zip(infos, raw, strict=True):
            info[VLM_REWARD_KEY] = float(value)
        return obs, rewards, dones, infos
