"""The one partitions definition of the graph: SAE sizes. With a second one, no single run could cover the graph."""

import dagster as dg

from sae_pipeline.study import Study


def sae_sizes(study: Study) -> dg.StaticPartitionsDefinition:
    """One partition per SAE size; the key is the number of features in digits."""
    return dg.StaticPartitionsDefinition([str(size) for size in study.sae.sizes])
