"""A door over the test's registry, and keys for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx

from registry.keys import AccessKey, Grant
from registry.registry import Registry
from serving.access import Access
from serving.access_options import AccessOptions
from serving.frontdoor import build_app
from serving.quotas import MeterPort
from serving.service import RoutedService
from tests.serving.conftest import Notebook


@dataclass
class House:
    """One replica behind a door; `made` are the texts of all keys."""

    service: RoutedService
    notebook: Notebook
    registry: Registry
    made: list[str] = field(default_factory=list)
    access: Access = field(init=False)

    def app(self, *, required: bool = True, meter: MeterPort | None = None, **options: Any) -> Any:
        """The application, its door made anew."""
        chosen = AccessOptions(**options)
        self.access = Access.over(self.registry.storage, chosen, required=required, replica="replica-0", meter=meter)
        return build_app(self.service, self.notebook, self.access)

    def key(self, *scopes: str, **changes: Any) -> dict[str, str]:
        """Headers with a new key."""
        return self.made_key(*scopes, **changes)[1]

    def made_key(self, *scopes: str, **changes: Any) -> tuple[AccessKey, dict[str, str]]:
        """The same with the key."""
        grant = Grant(**{"name": "a", "scopes": scopes or ("infer",), **changes})
        key, text = self.access.store.create(grant)
        self.access.ring.forget()
        return key, self.bearer(text)

    def rotated(self, key: AccessKey, overlap: timedelta) -> dict[str, str]:
        """Headers with a key's new secret."""
        text = self.access.store.rotate(key.id, overlap)[1]
        self.access.ring.forget()
        return self.bearer(text)

    def bearer(self, text: str) -> dict[str, str]:
        """Headers with a key."""
        self.made.append(text)
        return {"authorization": f"Bearer {text}"}

    def client(self, app: Any) -> httpx.AsyncClient:
        """A client without a socket."""
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://replica")
