"""Captions of true states, dataset readers and writers."""
