"""Which concepts have a feature, by how often the corpus mentions them."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.store import Store

N_RECOUNTED = 8


@stage_asset(
    kinds={"numpy", "parquet"},
    checks={"schema": SCHEMA, "recounted": f"the F1 of {N_RECOUNTED} words with their features, counted mention by mention"},
)
def completeness(context: dg.AssetExecutionContext, config: Rebuild, store: Store):
    """Words of concept families (elements, countries, cities, animals, ...): frequency, best feature, presence on held-out text.

    The law was predicted first (`sae_pipeline/survey/completeness/prediction.yaml`): half of the words have a feature at a
    frequency of about 1 / (alive features). Not part of the main run: `sae-pipeline run --job survey`.
    """
    from sae_pipeline.survey.completeness.build import build_completeness

    study, artifacts = store.study, store.artifacts
    corpus, activations = artifacts.path("corpus"), artifacts.path("activations")
    stats = {size: artifacts.path("feature_stats", size) for size in study.sae.sizes}
    yield from publish(
        context, artifacts, "completeness",
        lambda work: build_completeness(corpus, activations, stats, study.survey.completeness, work),
        checks={
            "schema": lambda work: schema_check(work, "completeness"),
            "recounted": lambda work: f1_recounted(work, corpus, activations, stats),
        },
        force=config.force,
        show=lambda work, _: {"presence": picture((work / "concept_presence.light.png").read_bytes())},
        headline=("n_words_scored",),
    )  # fmt: skip


def f1_recounted(folder: Path, corpus: Path, activations: Path, stats: dict[int, Path]) -> Verdict:
    """Held-out F1 of the rows with the most held-out mentions, one mention after the other, with sets of tokens."""
    import polars as pl

    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.features.sparse import SparseActivations
    from sae_pipeline.interpret.tokens import TokenTable

    tokens = TokenTable.of(CorpusReader.open(corpus), ActivationReader.open(activations))
    size = max(stats)
    held_out = SparseActivations.open(stats[size] / "activations_held_out.parquet")
    rows = pl.read_parquet(folder / "concept_presence.parquet").filter(pl.col("size") == size, pl.col("feature").is_not_null())
    worst, rows = 0.0, rows.sort("n_mentions_held_out", "word").tail(N_RECOUNTED)
    for row in rows.iter_rows(named=True):
        active, at = set(held_out.of(row["feature"])[0].tolist()), tokens.words.index(row["word"])
        mentioned: list[set[int]] = []
        for end in (tokens.test_N & (tokens.word_end_N == at)).nonzero()[0].tolist():
            span = {end}
            while min(span) % tokens.context and tokens.word_of_N[min(span) - 1] == at and tokens.word_end_N[min(span) - 1] < 0:
                span.add(min(span) - 1)
            mentioned.append(span)
        recall = sum(bool(span & active) for span in mentioned) / max(len(mentioned), 1)
        precision = len(active & set().union(*mentioned)) / max(len(active), 1)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        worst = max(worst, abs(f1 - row["f1_held_out"]))
    return Verdict(worst < 1e-9, f"F1 differs by {worst:.2g}", {"n_words": rows.height})
