"""Ways of steering beside each other."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Metadata, Rebuild, publish, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.compute import Compute
from resources.language_model import LanguageModel
from resources.store import Store


@stage_asset(
    kinds={"pytorch", "parquet"}, pool="gpu",
    checks={"schema": SCHEMA, "every_method": "every method has texts for every concept, and unsteered texts stand beside them"},
)  # fmt: skip
def steering_comparison(
    context: dg.AssetExecutionContext, config: Rebuild, store: Store, language_model: LanguageModel, compute: Compute
):
    """Clamp or add a feature, difference of means, probe, principal component, random direction and prompt, over concepts.

    One harness on the largest size: the factor is chosen on half of the prompts, everything is reported on the other half. Dose
    curves, the cost in multiple choice and the effect on other concepts come with it.
    """
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.survey.steering.build import build_steering_comparison
    from sae_pipeline.survey.steering.dose import DOSES
    from sae_pipeline.survey.steering.off_target import EFFECTS
    from sae_pipeline.survey.steering.results import FIGURE

    artifacts, study = store.artifacts, store.study
    size = max(study.sae.sizes)

    def build(work: Path):
        with compute.lease(context.log.info) as device:
            model = language_model.load(study, device)
            corpus = CorpusReader.open(artifacts.path("corpus"))
            folders = artifacts.path("sae", size), artifacts.path("feature_stats", size)
            return build_steering_comparison(model, corpus, *folders, study.survey.steering_comparison, size, work)

    yield from publish(
        context, artifacts, "steering_comparison", build,
        checks={"schema": lambda work: schema_check(work, "steering_comparison"), "every_method": every_method},
        force=config.force, show=lambda work, _: figures(work, (FIGURE, DOSES, EFFECTS)),
        headline=("n_concepts", "n_generated_tokens", "clamp_over_random"),
    )  # fmt: skip


def every_method(folder: Path) -> Verdict:
    """A method that is missing for one concept would make every paired difference about other concepts than it says."""
    import polars as pl

    from sae_pipeline.survey.steering.methods import BASELINE, METHODS, PROMPT_ONLY

    rows = pl.read_parquet(folder / "steering_methods.parquet")
    wanted = {*METHODS, PROMPT_ONLY}
    incomplete = [name for (name,), part in rows.group_by(["concept"], maintain_order=True) if set(part["method"]) != wanted]
    texts = pl.read_parquet(folder / "comparison_texts.parquet", columns=["method", "half"])
    halves = texts.filter(pl.col("method") == BASELINE)["half"].n_unique()
    passed = (not incomplete and halves == 2) or (rows.is_empty() and texts.is_empty())
    return Verdict(passed, f"methods are missing for {incomplete}, unsteered texts on {halves} halves", {"n_rows": len(rows)})


def figures(folder: Path, names: Sequence[str]) -> Metadata:
    """There are none where too few concepts could be compared."""
    files = {name: folder / f"{name}.light.png" for name in names}
    return {name: picture(file.read_bytes()) for name, file in files.items() if file.is_file()}
