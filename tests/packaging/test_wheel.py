"""A wheel holds every module and data file of the tree under its true name, and nothing else."""

import configparser
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import vlmreward

ROOT = Path(__file__).parents[2]
# folder of the tree -> its place in the wheel
FOLDERS = {
    "vlmreward": "vlmreward",
    **{name: f"vlmreward/{name}" for name in ("envs", "agents", "real_robot", "configs")},
}
NOT_SHIPPED = {".md", ".pyc", ".tmp"}


def expected_names(root):
    """Return the names that a wheel of this tree must hold, apart from its own records."""
    return {
        f"{place}/{path.relative_to(root / folder).as_posix()}"
        for folder, place in FOLDERS.items()
        for path in (root / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in NOT_SHIPPED
    }


def build(source, out):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = out.glob("*.whl")
    return wheel


def copy_tree(target):
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    source = copy_tree(tmp_path_factory.mktemp("source"))
    # Planted: a new package, and data deep down, must be shipped without being named anywhere.
    planted = source / "envs" / "mujoco" / "planted" / "deep"
    planted.mkdir(parents=True)
    for folder in (planted, planted.parent):
        (folder / "__init__.py").touch()
    (planted / "scene.xml").write_text("<mujoco/>")
    (source / "configs" / "experiment").mkdir(exist_ok=True)
    (source / "configs" / "experiment" / "planted.yaml").write_text("seed: 0\n")
    return source, build(source, tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_every_module_and_data_file_and_nothing_else(built):
    source, wheel = built
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = expected_names(source)
    assert {"vlmreward/envs/mujoco/planted/deep/scene.xml", "vlmreward/configs/experiment/planted.yaml"} <= expected
    assert "vlmreward/py.typed" in shipped
    assert expected - shipped == set(), "missing from the wheel: name its kind in [tool.setuptools.package-data]"
    assert shipped - expected == set()


def test_every_folder_with_modules_is_a_package():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent.relative_to(ROOT)} has no __init__.py"


def test_metadata_names_the_command_the_version_and_the_licence(built):
    _, wheel = built
    archive = zipfile.ZipFile(wheel)
    record = {Path(name).name: name for name in archive.namelist() if ".dist-info/" in name}
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(record["entry_points.txt"]).decode())
    assert dict(parser["console_scripts"]) == {"vlmreward": "vlmreward.cli:main"}
    metadata = archive.read(record["METADATA"]).decode()
    assert f"\nVersion: {vlmreward.__version__}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert {"LICENSE", "NOTICE"} <= set(record)


def test_command_and_embedded_encoder_work_from_the_unpacked_wheel_away_from_the_tree(built, tmp_path):
    _, wheel = built
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import vlmreward.cli, vlmreward.envs, vlmreward.configs, vlmreward.agents\n"
        "from vlmreward.cli.groups import list_groups\n"
        "assert all(m.__file__.startswith(sys.argv[1]) for n, m in sys.modules.items() if n.startswith('vlmreward'))\n"
        "from vlmreward.encoders import make_encoder\n"
        "assert make_encoder('mini').encode_texts(['pole up']).shape == (1, 256)\n"
        "assert 'planted' in list_groups()['experiment'] and 'cartpole' in list_groups()['env']\n"
        "sys.exit(vlmreward.cli.main(['--version']))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == vlmreward.__version__


def test_version_is_written_the_same_in_both_places():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == vlmreward.__version__
