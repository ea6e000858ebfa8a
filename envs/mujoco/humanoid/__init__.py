"""Gymnasium's humanoid with pictures made for vision-language models, and poses as tasks."""
