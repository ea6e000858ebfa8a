"""The environments, registered with Gymnasium under ``vlmreward/<Name>-v<N>``; importing this loads none of them."""

from gymnasium import register

register(
    id="vlmreward/CartPole-v0",
    entry_point="vlmreward.envs.classic.cartpole:CartPoleEnv",
    max_episode_steps=200,
)
register(
    id="vlmreward/MountainCar-v0",
    entry_point="vlmreward.envs.classic.mountaincar:MountainCarEnv",
    max_episode_steps=300,
)
register(
    id="vlmreward/Humanoid-v0",
    entry_point="vlmreward.envs.mujoco.humanoid.env:HumanoidEnv",
    max_episode_steps=400,
)
register(
    id="vlmreward/Tabletop-v0",
    entry_point="vlmreward.envs.mujoco.tabletop.env:TabletopEnv",
    max_episode_steps=150,
)
