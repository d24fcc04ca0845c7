"""graftwork's own battery of checks on this plugin."""

from __future__ import annotations

from graftwork.testing import conformance_tests

test_conformance = conformance_tests("signals")
