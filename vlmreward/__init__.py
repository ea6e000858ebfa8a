"""Say the goal in words, get a trained agent and an evaluation video.

Frozen vision-language models become reward for embodied agents. Importing this package loads
neither torch nor a simulator; the parts are imported by their own names, for example
``from vlmreward.rewards.clip import ClipReward``.
"""

__version__ = "0.1.0"
