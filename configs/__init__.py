"""The Hydra groups and the primary config of each command; a data package, loaded by ``vlmreward.cli.compose``."""
