"""One run over several sizes: each is reported for itself, and a failing one does not hold up the others."""

from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from assets.several import DATA_VERSION_TAG, publish_each


def test_every_size_is_reported_with_its_own_version_and_a_failure_comes_last():
    asked: list[tuple[int, list[int]]] = []

    def one(size: int, later: list[int]):
        asked.append((size, later))
        if size == 2:
            raise dg.Failure("size 2")
        checks = [dg.AssetCheckResult(check_name="ok", passed=True)]
        yield dg.MaterializeResult(metadata={"n": size}, data_version=dg.DataVersion(f"v{size}"), check_results=checks)

    context: Any = SimpleNamespace(asset_key=dg.AssetKey("sae"))
    events = []
    with pytest.raises(dg.Failure, match="size 2"):
        for event in publish_each(context, [1, 2, 4], one):
            events.append(event)
    assert asked == [(1, [2, 4]), (2, [4]), (4, [])]
    first, last, check = events
    assert [(one.partition, one.tags[DATA_VERSION_TAG], one.metadata["n"].value) for one in (first, last)] == [
        ("1", "v1", 1),
        ("4", "v4", 4),
    ]
    assert check.passed and {key: value.value for key, value in check.metadata.items()} == {"1": True, "4": True}
