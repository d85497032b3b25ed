#!/usr/bin/env bash
# Have Chromium for the page's tests, from the system's packages where that may be done; without it they are skipped.
set -uo pipefail

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if [[ "$(id -u)" != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "no Chromium here: the page's tests are skipped; install the package chromium to run them"
    exit 0
fi
log="$(mktemp)"
if { timeout 120 apt-get update && DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y --no-install-recommends chromium; } >"$log" 2>&1; then
    echo "installed Chromium for the page's tests"
else
    echo "Chromium could not be installed, so the page's tests are skipped; the last lines of apt-get:"
    tail -n 5 "$log"
fi
rm -f "$log"
