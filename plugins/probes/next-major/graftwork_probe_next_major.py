"""A probe for the next major version of the plugin interface."""

from __future__ import annotations

raise AssertionError("a plugin for another host was imported")
