"""Learn a reward beside the agent that learns from it."""
