#!/bin/sh
# Installs Debian's chromium, in which a test looks at the page of an audit. Where that can't be done (no network, no
# rights, another system) it says so and ends well: the test is then skipped with that reason.
set -eu
SETUP_ONLY_DEFINE=1
. "$(dirname "$0")/setup.sh"

if ! command -v chromium >/dev/null 2>&1; then
    (apt_install "chromium is missing, in which a test looks at pages" chromium) || say "that test will be skipped"
fi
