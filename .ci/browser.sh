#!/bin/sh
# Installs Debian's chromium, in which tests look at the pages of an audit and of the viewer. Where that can't be done (no
# network, no rights, another system) it says so and ends well: the tests are then skipped with that reason.
set -eu
SETUP_ONLY_DEFINE=1
. "$(dirname "$0")/setup.sh"

if ! command -v chromium >/dev/null 2>&1; then
    (apt_install "chromium is missing, in which tests look at pages" chromium) || say "those tests will be skipped"
fi
