"""Labelling of recorded episodes: decode, encode once, score for any goal."""
