"""The door that Flower finds: it looks for a project's apps by reading the file that its configuration names."""

from __future__ import annotations

from fedkd.engine.app import client_app, server_app

__all__ = ["client", "client_app", "server", "server_app"]

#: The apps without code of a user's own.
client = client_app()
server = server_app()
