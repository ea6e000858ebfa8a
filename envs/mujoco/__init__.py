"""Environments on MuJoCo: choice of the GL back end, our own renderer, the humanoid, the tabletop."""
