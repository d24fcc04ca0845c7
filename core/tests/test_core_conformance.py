"""graftwork's own battery of checks on its own components."""

from __future__ import annotations

from graftwork.testing import conformance_tests

test_conformance = conformance_tests("core")
