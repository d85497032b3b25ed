#!/usr/bin/env bash
# A stand-in before the front door, outside Ray: HAProxy with the configuration of serving/haproxy.py. It answers where the
# head can't, as while its node is replaced.
#
#   deploy/standin.sh LISTEN TO      such as :80 head:8000
#
# TO is where `anabranch up` serves, or a name that leads to the replicas themselves.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python -m serving.haproxy "$@"
