"""Two kinds of log line of the same machines: a web server's access log and the services' own log, both to JSON.

Access line -> method, path, status. Service line -> level and service, both written in another way than in the line.
This module does not know how records are written.
"""

import random

from faker import Faker

Exchange = tuple[str, str]

METHODS = ("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD")
PLACES = ("cart", "login", "items", "users", "api", "img", "help", "search", "v2", "pay", "admin", "news", "feed")
STATUSES = (200, 200, 201, 204, 301, 302, 304, 400, 401, 403, 404, 404, 409, 429, 500, 502, 503)
SERVICES = ("billing", "auth", "mailer", "search", "stock", "gateway", "report", "cache", "backup", "sync")
LEVELS = {"ERROR": "error", "WARN": "warning", "INFO": "info", "DEBUG": "debug", "FATAL": "critical"}
EVENTS = ("timeout after {n} ms", "user {u} signed in", "retry {k} of 5", "{n} rows written", "connection lost",
          "queue length {n}", "cannot open file {u}.dat", "cache miss for {u}", "started in {n} ms", "disk {k}0% full",
          "bad token from {ip}", "worker {k} stopped")  # fmt: skip


def access(rng: random.Random, fake: Faker) -> Exchange:
    """A web server's line and ``{"method":...,"path":...,"status":...}``."""
    path = "/" + "/".join(rng.sample(PLACES, rng.randint(1, 2)))
    if rng.random() < 0.4:
        path += f"/{rng.randint(1, 999)}"
    method, status, size = rng.choice(METHODS), rng.choice(STATUSES), rng.randint(0, 99999)
    moment = f"{rng.randint(1, 28):02d}/{rng.randint(1, 12):02d} {_clock(rng)}"
    line = f'{fake.ipv4()} [{moment}] "{method} {path}" {status} {size}'
    return line, f'{{"method":"{method}","path":"{path}","status":{status}}}'


def service(rng: random.Random, fake: Faker) -> Exchange:
    """A service's line and ``{"service":...,"level":...}``."""
    name, level = rng.choice(SERVICES), rng.choice(list(LEVELS))
    event = rng.choice(EVENTS).format(n=rng.randint(2, 9999), k=rng.randint(1, 9), u=fake.user_name(), ip=fake.ipv4())
    moment = f"{rng.randint(1, 28):02d}/{rng.randint(1, 12):02d} {_clock(rng)}"
    line = f"{moment} {level} [{name}-{rng.randint(1, 9)}] {event}"
    return line, f'{{"service":"{name}","level":"{LEVELS[level]}"}}'


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
