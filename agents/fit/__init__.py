"""Trainers of the models that the project ships or fits: the embedded encoder ``mini``."""
