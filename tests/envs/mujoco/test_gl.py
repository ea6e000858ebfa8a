"""Choice of the GL back end: real child processes, and a faked preflight in place of other machines."""

import importlib.util
import os
import resource
import subprocess
import sys

import pytest

from vlmreward.envs.mujoco import gl
from vlmreward.errors import RenderingError


@pytest.fixture(autouse=True)
def _unsettled(monkeypatch):
    """Give each test an environment in which nothing is chosen yet."""
    for name in ("MUJOCO_GL", gl.CHECKED):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(gl, "loaded_backend", lambda: None)


def _fake_preflight(monkeypatch, working):
    tried = []

    def preflight(backend):
        tried.append(backend)
        return None if backend in working else "no such library"

    monkeypatch.setattr(gl, "preflight", preflight)
    return tried


def _run(code, **env):
    """Run code in a fresh process; None removes a variable."""
    full = {k: v for k, v in {**os.environ, **env}.items() if v is not None}
    return subprocess.run([sys.executable, "-c", code], env=full, capture_output=True, text=True, timeout=120)


FRESH = {"MUJOCO_GL": None, gl.CHECKED: None, "PYOPENGL_PLATFORM": None}
DRAW = """
from vlmreward.envs.mujoco.renderer import Camera, Renderer
from vlmreward.envs.mujoco.gl import import_mujoco
mujoco = import_mujoco()
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom size=".3" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = Renderer(model, 32, 32)
renderer.render(data, Camera(2, (0, 0, 0), 0, -20))
"""


def test_egl_is_preferred_and_the_answer_is_inherited(monkeypatch):
    tried = _fake_preflight(monkeypatch, {"egl", "osmesa"})
    assert gl.ensure_gl() == "egl"
    assert os.environ["MUJOCO_GL"] == os.environ[gl.CHECKED] == "egl"
    assert gl.ensure_gl() == gl.choose_gl_backend() == "egl"
    assert tried == ["egl"]  # the second and third answers cost nothing


def test_osmesa_is_the_fallback(monkeypatch):
    tried = _fake_preflight(monkeypatch, {"osmesa"})
    assert gl.choose_gl_backend() == "osmesa"
    assert tried == ["egl", "osmesa"]


def test_no_back_end_is_one_line_with_the_packages(monkeypatch):
    _fake_preflight(monkeypatch, set())
    with pytest.raises(RenderingError, match="libegl1 libgl1-mesa-dri") as e:
        gl.choose_gl_backend()
    assert "libosmesa6" in str(e.value)
    assert "no such library" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_parents_answer_is_believed(monkeypatch):
    tried = _fake_preflight(monkeypatch, set())
    monkeypatch.setenv(gl.CHECKED, "osmesa")
    assert gl.choose_gl_backend() == "osmesa"
    assert tried == []


def test_the_users_choice_is_respected_and_checked(monkeypatch):
    tried = _fake_preflight(monkeypatch, {"egl", "osmesa"})
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setenv(gl.CHECKED, "egl")
    assert gl.ensure_gl() == "osmesa"
    assert tried == ["osmesa"]


def test_a_users_choice_that_fails_is_named(monkeypatch):
    _fake_preflight(monkeypatch, {"osmesa"})
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(RenderingError, match=r"MUJOCO_GL=egl does not work here .*libegl1.*unset MUJOCO_GL"):
        gl.ensure_gl()
    assert os.environ["MUJOCO_GL"] == "egl"  # never another one in silence


def test_pictures_switched_off_is_an_error(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(RenderingError, match="switches pictures off"):
        gl.ensure_gl()


def test_another_back_end_already_loaded_is_an_error(monkeypatch):
    _fake_preflight(monkeypatch, {"egl", "osmesa"})
    monkeypatch.setattr(gl, "loaded_backend", lambda: "egl")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(RenderingError, match="has loaded MuJoCo's egl back end already"):
        gl.ensure_gl()


def test_preflight_draws_for_real_and_is_cheap():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    backend = gl.choose_gl_backend()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert backend in gl.candidates()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5 * 2  # two attempts at most


def test_preflight_of_nonsense_gives_the_reason():
    assert "nonsense" in str(gl.preflight("nonsense"))


@pytest.mark.usefixtures("osmesa")
@pytest.mark.skipif(sys.platform != "linux", reason="masks Linux libraries")
def test_a_machine_whose_egl_has_no_driver_falls_back():
    done = _run(
        "from vlmreward.envs.mujoco.gl import ensure_gl; print(ensure_gl())",
        **FRESH,
        __EGL_VENDOR_LIBRARY_FILENAMES="/nonexistent.json",
    )
    assert done.stdout.strip() == "osmesa", done.stderr


def test_importing_the_package_neither_chooses_nor_loads():
    done = _run(
        "import os, sys, vlmreward.envs, vlmreward.envs.mujoco.gl;"
        "print('mujoco' in sys.modules, 'MUJOCO_GL' in os.environ)",
        **FRESH,
    )
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_mujoco_imported_before_without_a_choice_still_draws():
    done = _run("import mujoco\n" + DRAW + "print('drawn')", **FRESH)
    assert done.stdout.split() == ["drawn"], done.stderr
    assert done.stderr == ""  # nothing is left open at exit


def test_a_back_end_that_breaks_the_import_is_one_line():
    # mujoco raises ImportError at import for this pair, as it raises AttributeError when libEGL is missing
    done = _run("import vlmreward.envs.mujoco.renderer", **{**FRESH, "MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "osmesa"})
    assert done.returncode == 1
    assert "RenderingError: mujoco can't be imported with MUJOCO_GL=egl" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_triton_after_a_picture_does_not_crash(backend, request):
    if backend == "osmesa":
        request.getfixturevalue("osmesa")
    done = _run(DRAW + "import triton; print('alive')", **{**FRESH, "MUJOCO_GL": backend})
    assert done.returncode == 0, done.stderr  # it was a segmentation fault, -11
    assert done.stdout.split() == ["alive"]


@pytest.mark.usefixtures("osmesa")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_a_gl_library_loaded_too_early_is_warned_of():
    done = _run("import mujoco\n" + DRAW, **{**FRESH, "MUJOCO_GL": "osmesa"})
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning: a GL library was loaded before triton" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("line", ["renderer.render(data, Camera(2, (0, 0, 0), 0, -20))", "Renderer(model, 32, 32)"])
def test_a_forked_process_is_told_not_to_draw(line):
    code = f"""
import os
from vlmreward.errors import RenderingError
if os.fork() == 0:
    try:
        {line}
    except RenderingError as e:
        os._exit(7 if "fork" in str(e) and "spawn" in str(e) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = _run(DRAW + code, **FRESH)
    assert done.stdout.split() == ["7"], done.stderr
