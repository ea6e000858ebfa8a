#!/bin/sh
# Set-up for `make demo` and `make test`: finds Python, makes the virtual environment, installs the project into it
# and sees that pictures can be rendered. Run again, it does only what is missing.
#
#   sh .ci/setup.sh [folder of the virtual environment, default .venv]
#
# PYTHON=<program> chooses the Python. Every failure ends in one line that says what to do.
set -eu

MIN_MINOR=11
GL_PACKAGES="libegl1 libgl1-mesa-dri"
EXTRAS="dev,contrib"

say() { printf 'set-up: %s\n' "$*"; }
fail() { printf 'set-up: error: %s\n' "$*" >&2; exit 1; }

# Prints the first Python that is new enough.
find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c "import sys; sys.exit(sys.version_info < (3, $MIN_MINOR))" >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# Prints what to put before apt-get, or fails when packages can't be installed without a password.
apt_prefix() {
    command -v apt-get >/dev/null 2>&1 || return 1
    if [ "$(id -u)" = 0 ]; then
        return 0
    fi
    command -v sudo >/dev/null 2>&1 && sudo -n true >/dev/null 2>&1 && printf 'sudo -n'
}

# Installs Debian packages, or ends with the line that says which: apt_install <what is missing> <packages...>
apt_install() {
    missing=$1
    shift
    prefix=$(apt_prefix) || fail "$missing: install it with 'apt-get install $*' (or what your system calls it), then run make again"
    say "$missing: installing $*"
    # shellcheck disable=SC2086 # the prefix is empty or two words
    {
        $prefix env DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
            $prefix env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
    } </dev/null >/dev/null || fail "$missing, and 'apt-get install $*' failed: see above, then run make again"
}

make_venv() {
    python=$(find_python) || fail "no Python 3.$MIN_MINOR or newer found${PYTHON:+ as $PYTHON}: install one (apt-get install python3 python3-venv) or name it: make PYTHON=<program> ..."
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then # Debian ships these apart from Python
        apt_install "$python can't make virtual environments" \
            "$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')"
    fi
    say "making $VENV with $python"
    if [ -e "$VENV/pyvenv.cfg" ]; then # one that was moved, or whose Python is gone
        rm -rf "$VENV"
    elif [ -d "$VENV" ] && [ -n "$(ls -A "$VENV")" ]; then
        fail "$VENV is a folder, but no virtual environment: choose another one with VENV=<folder>"
    fi
    "$python" -m venv "$VENV" || fail "$python could not make $VENV: see above"
}

install_project() {
    say "installing the project and its packages into $VENV (several GB, some minutes the first time)"
    # With the build tool in place first, a later run that has nothing new to install needs no network.
    pip_install setuptools && pip_install --no-build-isolation -e ".[$EXTRAS]" ||
        fail "the packages could not be installed: see above (network? disk?), then run make again"
}

pip_install() { "$VENV/bin/python" -m pip install --disable-pip-version-check -c constraints.txt "$@"; }

# Renders a small picture with one back end in a process of its own: a missing library can end the process.
renders_with() {
    MUJOCO_GL=$1 "$VENV/bin/python" - >/dev/null 2>&1 <<'PY'
import os

import mujoco

xml = '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="1" pos="0 0 0"/></worldbody></mujoco>'
model = mujoco.MjModel.from_xml_string(xml)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data)
os._exit(int(renderer.render().std() < 1))  # without the clean-up, which may complain
PY
}

can_render() { renders_with egl || renders_with osmesa; }

check_rendering() {
    if ! can_render; then
        # shellcheck disable=SC2086 # several packages
        apt_install "the OpenGL libraries that render pictures are missing" $GL_PACKAGES
        can_render || fail "pictures can't be rendered although $GL_PACKAGES are installed: 'vlmreward doctor' says more"
    fi
}

main() {
    VENV=${1:-.venv}
    cd "$(dirname "$0")/.."
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        make_venv
    fi
    install_project
    check_rendering
    touch "$VENV/.ready"
    say "done"
}

# Tests read the functions without running them.
if [ "${SETUP_ONLY_DEFINE:-}" != 1 ]; then
    main "$@"
fi
