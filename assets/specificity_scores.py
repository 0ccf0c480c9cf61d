"""How well explanations fit what features respond to, 0 to 3."""

from pathlib import Path

import dagster as dg

from assets.pictures import picture
from assets.publishing import Rebuild, publish, size_of, stage_asset
from assets.verdicts import SCHEMA, Verdict, schema_check
from resources.judge import Judge
from resources.store import Store


@stage_asset(
    kinds={"text", "parquet"},
    checks={
        "schema": SCHEMA,
        "scores": "every score is 0, 1, 2 or 3, or null with a status that says why",
        "controls": "shuffled explanations, random directions, neurons and a random model are scored beside the features",
    },
)
def specificity_scores(context: dg.AssetExecutionContext, config: Rebuild, store: Store, judge: Judge):
    """The paper's specificity rubric on held-out examples across activation intervals; a proxy without a language model.

    The same windows are scored with shuffled explanations, and the same scorer is run on random directions, MLP neurons and
    features of a re-initialized model.
    With `score.method: rubric` a judge rates the same windows. Methods are never averaged together.
    """
    from sae_pipeline.interpret.build_specificity import build_specificity_scores

    study, size, artifacts = store.study, size_of(context, "specificity_scores"), store.artifacts

    def build(work: Path):
        assert size is not None
        with judge.open(artifacts, context.run.run_id) as asked:
            return build_specificity_scores(
                size=size, score=study.score, corpus=artifacts.path("corpus"), activations=artifacts.path("activations"),
                feature_stats=artifacts.path("feature_stats", size), explanations=artifacts.path("explanations", size),
                work=work, judge=asked, votes=study.judge.votes,
            )  # fmt: skip

    yield from publish(
        context, artifacts, "specificity_scores", build,
        checks={
            "schema": lambda work: schema_check(work, "specificity_scores"),
            "scores": scores_are_levels,
            "controls": lambda work: controls_present(work, study.activations.n_neurons, study.random_model.n_tokens),
        },
        force=config.force,
        show=lambda work, _: {
            name: picture(png)
            for name, png in figures(work, artifacts.path("feature_stats", size)).items()
        },
        headline=("n_features_scored", "matched_minus_shuffled"),
    )  # fmt: skip


def scores_are_levels(folder: Path) -> Verdict:
    """0..3 when the status is ok, null otherwise."""
    import polars as pl

    scores = pl.read_parquet(folder / "specificity_scores.parquet", columns=["score", "status"])
    bad = scores.filter(
        ((pl.col("status") == "ok") & ~pl.col("score").is_between(0, 3).fill_null(False))
        | ((pl.col("status") != "ok") & pl.col("score").is_not_null())
    )
    return Verdict(bad.is_empty(), f"{bad.height} rows with an impossible score", {"n_scores": scores.height})


def controls_present(folder: Path, n_neurons: int, n_random_model_tokens: int) -> Verdict:
    """Without its controls a mean score says nothing."""
    import polars as pl

    found = set(pl.read_parquet(folder / "specificity_scores.parquet", columns=["control"])["control"])
    wanted = {"none", "shuffled", "random_direction"}
    wanted |= ({"mlp_neuron"} if n_neurons else set()) | ({"random_model"} if n_random_model_tokens else set())
    return Verdict(found >= wanted, f"controls missing: {sorted(wanted - found)}", {"controls": ", ".join(sorted(found))})


def figures(folder: Path, feature_stats: Path) -> dict[str, bytes]:
    """The paper's figures, one per method: distribution of scores by activation interval, and each chosen feature's density.

    Of a judge that failed its calibration nothing is drawn.
    """
    import polars as pl

    from sae_pipeline.plots.specificity import chosen_density, specificity_by_interval

    scores = pl.read_parquet(folder / "specificity_scores.parquet")
    believed = pl.read_parquet(folder / "judge_calibration.parquet").filter("passed")["model"]
    scores = scores.filter(~pl.col("plumbing"), pl.col("model").is_null() | pl.col("model").is_in(believed.implode()))
    chosen = scores.filter(kind="close_look")["feature"].unique().sort().to_list()
    intervals = pl.read_parquet(feature_stats / "feature_intervals.parquet").filter(split="held_out")
    drawn: dict[str, bytes] = {}
    for method in scores.filter(pl.col("score").is_not_null())["method"].unique().sort().to_list():
        mine = scores.filter(method=method)
        drawn[f"by_interval_{method}"] = specificity_by_interval(mine)
        for feature in chosen:
            own = mine.filter(feature=feature, control="none")
            drawn[f"density_{feature}_{method}"] = chosen_density(own, intervals.filter(feature=feature))
    return drawn
