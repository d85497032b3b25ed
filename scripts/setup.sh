#!/usr/bin/env bash
# Set up .venv from a lock: scripts/setup.sh cpu|gpu. Does nothing if lock, project file and Python are unchanged.
#   PYTHON            interpreter to build on (default python3), 3.11 or newer
#   TORCH_INDEX_URL   PyTorch's own wheel index, asked where the configured one has no such build of torch
set -euo pipefail
cd "$(dirname "$0")/.."

extra="${1:-cpu}"
lock="requirements/$extra.lock"
python="${PYTHON:-python3}"
log=".venv/setup.log"
stamp=".venv/setup.stamp"

fail() {
    printf 'set-up failed: %s\n' "$1" >&2
    exit 1
}

[[ -f "$lock" ]] || fail "expected EXTRA=cpu or EXTRA=gpu, got '$extra'"
command -v "$python" >/dev/null || fail "no '$python' here; install Python 3.11 or name one with PYTHON=..."
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "expected Python 3.11 or newer, got $version; name another with PYTHON=python3.11"

wanted="$({ printf '%s %s\n' "$extra" "$version"; cat "$lock" pyproject.toml scripts/setup.sh; } | sha256sum)"
if [[ -x .venv/bin/anabranch && -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then
    exit 0
fi

# Both environments hold an engine of the same name, and one would overwrite the other's files.
if [[ -f .venv/setup.extra && "$(<.venv/setup.extra)" != "$extra" ]]; then
    fail ".venv holds the $(<.venv/setup.extra) environment, expected $extra; remove .venv and run again"
fi
[[ -x .venv/bin/python ]] || "$python" -m venv .venv
printf '%s\n' "$extra" >.venv/setup.extra
: >"$log"

pip() {
    .venv/bin/python -m pip --disable-pip-version-check install --no-deps "$@" >>"$log" 2>&1
}

# The plain install first: where the configured index holds this build of torch, nothing else is asked.
install_lock() {
    pip -r "$lock" && return
    if grep -q 'No matching distribution found for torch==' "$log"; then
        [[ -n "${TORCH_INDEX_URL:-}" ]] || fail \
            "your package index has no $(grep -m1 '^torch==' "$lock"); set TORCH_INDEX_URL to PyTorch's wheel index for this kind of machine and run again"
        pip --extra-index-url "$TORCH_INDEX_URL" -r "$lock" && return
    fi
    # Large wheels over a flaky line: once more, with what has arrived still in pip's cache.
    pip ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -r "$lock"
}

show_log() {
    tail -n 20 "$log" >&2
    fail "$1; the whole output is in $log"
}

printf 'setting up .venv from %s: %s packages, a few minutes the first time\n' "$lock" "$(grep -c '==' "$lock")"
install_lock || show_log "pip could not install $lock"
pip --no-build-isolation -e . || show_log "pip could not install the project itself"
printf '%s\n' "$wanted" >"$stamp"
printf 'ready after %s s: .venv/bin/anabranch\n' "$SECONDS"
