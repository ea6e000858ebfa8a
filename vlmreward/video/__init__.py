"""Videos of episodes: the goal, the reward curve and the true success drawn beside the pictures."""
