"""What a shell completes beside commands and options: presets, and the domains of the service that `--url` names.

Nothing that fails here is said: a shell then offers what it has, files for instance.
"""

from __future__ import annotations

from typing import Any

from console.terminal import DEFAULT_URL

PATIENCE_S = 1.0
"""How long a service may take to tell its domains while someone waits for a completion."""


def presets(incomplete: str) -> list[str]:
    """The presets that begin so."""
    from configs.loader import presets as known

    return [name for name in known() if name.startswith(incomplete)]


def domains(ctx: Any, incomplete: str) -> list[str]:
    """The domains that begin so; none where no service answers at once."""
    from console.client import Client

    try:
        client = Client(ctx.params.get("url") or DEFAULT_URL, patience_s=PATIENCE_S)
        names = sorted(domain.domain for domain in client.domains())
    except Exception:
        return []  # A traceback in the middle of what is being typed helps nobody.
    return [name for name in names if name.startswith(incomplete)]


def models(ctx: Any, incomplete: str) -> list[str]:
    """What a chat may be had with: `auto`, `base`, and the domains."""
    return [name for name in ("auto", "base") if name.startswith(incomplete)] + domains(ctx, incomplete)
