"""A probe whose entry module raises what is no Exception, as compiled libraries do."""

from __future__ import annotations


class PanicException(BaseException):
    """Stand in for a panic that crosses from a compiled library."""


raise PanicException("called Option::unwrap() on a None value")
