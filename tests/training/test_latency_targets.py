"""Latency targets as routers and the search read them."""

from __future__ import annotations

import pytest

from flextron_export.errors import InputError
from flextron_export.training.latency_targets import parse_targets


def test_targets_are_shares_of_the_full_latency_or_times() -> None:
    found = parse_targets(["0.75", 0.5, "12ms", " 0.125 ", 1], 20.0)
    assert found == {"full": 1, "t75": 0.75, "t12ms": 0.6, "t50": 0.5, "t12.5": 0.125}
    assert list(found) == ["full", "t75", "t12ms", "t50", "t12.5"], "the slowest first"


def test_targets_that_are_neither_are_refused_all_at_once() -> None:
    with pytest.raises(
        InputError, match=r"'fast' is neither.*'12' is neither.*'-1ms' is neither.*'0\.50' is there twice"
    ):
        parse_targets(["fast", "12", "-1ms", "0.5", "0.50"], 20.0)
    with pytest.raises(InputError, match="there is none"):
        parse_targets([], 20.0)
