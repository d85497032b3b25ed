#!/usr/bin/env bash
# A container's start as the head of a Ray cluster, with `anabranch ARGUMENTS` as its driver.
#   RAY_PORT          where workers join (default 6379)
#   HEAD_CPUS         CPUs that actors may reserve here (default: all that Ray sees)
#   RAY_METRICS_PORT  where Prometheus finds Ray's figures (default 8080)
set -euo pipefail
# A driver needs a Ray node in its own container, so the two start together and end together.
ray start --head --port="${RAY_PORT:-6379}" ${HEAD_CPUS:+--num-cpus="$HEAD_CPUS"} \
    --metrics-export-port="${RAY_METRICS_PORT:-8080}" --object-store-memory=268435456 --include-dashboard=false --disable-usage-stats
exec anabranch "$@"
