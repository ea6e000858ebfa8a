"""Fakes with known answers, for the tests of this project and of those who extend it; the library uses none."""
