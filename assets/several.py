"""One run for several sizes: what Dagster calls 'Single run' when a backfill of a range of partitions is launched.

Each size is reported as its own run would report it, with its own metadata and data version. A size that fails does not keep the
others from being published; the run then fails at its end.
"""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg
from dagster import AssetCheckResult, AssetMaterialization, MaterializeResult

DATA_VERSION_TAG = "dagster/data_version"
OneSize = Callable[[int, list[int]], Iterator[MaterializeResult | AssetCheckResult]]
"""(size, the sizes that come after it) to what `publish` yields."""


def publish_each(
    context: dg.AssetExecutionContext, sizes: Sequence[int], one: OneSize
) -> Iterator[AssetMaterialization | AssetCheckResult]:
    """Publish `sizes` one after the other. Raises the first failure when all are through."""
    verdicts: dict[str, dict[int, bool]] = {}
    failures: list[dg.Failure] = []
    for at, size in enumerate(sizes):
        try:
            for event in one(size, list(sizes[at + 1 :])):
                found = event.check_results or () if isinstance(event, MaterializeResult) else (event,)
                for result in found:
                    verdicts.setdefault(result.check_name or "", {})[size] = result.passed
                if isinstance(event, MaterializeResult):
                    assert event.data_version is not None
                    yield AssetMaterialization(
                        context.asset_key, partition=str(size), metadata=event.metadata,
                        tags={DATA_VERSION_TAG: event.data_version.value},
                    )  # fmt: skip
        except dg.Failure as failure:
            failures.append(failure)
    for name, passed in verdicts.items():
        yield AssetCheckResult(
            check_name=name, passed=all(passed.values()), metadata={str(key): ok for key, ok in passed.items()}
        )
    if failures:
        raise failures[0]
