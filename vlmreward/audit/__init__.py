"""Is a reward any good, before anything is trained on it: agreement with labels, checks without labels, baselines."""
