"""The plugin host: what is installed, what it brings, and what became of it."""

from __future__ import annotations

from graftwork.plugins.admission import PluginInfo
from graftwork.plugins.host import Host, get_host
from graftwork.plugins.registry import Registry

__all__ = ["Host", "PluginInfo", "Registry", "get_host"]
