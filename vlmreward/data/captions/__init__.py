"""A written grammar of captions over the true states of the project's own environments.

Each environment has a module here that exports ``CONCEPTS``: what can be said of a state, in how many ways, and
how far any state is from it. The grammar is what the embedded encoder ``mini`` is trained on.
"""
