"""Ship the top-level folders inside the ``vlmreward`` package; all metadata is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ("envs", "agents", "real_robot", "configs")

setup(
    packages=find_packages(include=["vlmreward", "vlmreward.*"])
    + [f"vlmreward.{name}" for f in FOLDERS for name in (f, *(f"{f}.{sub}" for sub in find_packages(f)))],
    package_dir={f"vlmreward.{f}": f for f in FOLDERS},
)
