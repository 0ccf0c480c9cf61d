"""The measurements of this stage, each beside its control."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import polars as pl

from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study_survey_search import Attribution
from sae_pipeline.survey.attribution.lists import middles, share_about
from sae_pipeline.survey.attribution.prompts import Prompt, prompts_sha, read_words
from sae_pipeline.survey.attribution.refusals import refused_shares
from sae_pipeline.survey.attribution.statistics import (
    Compared,
    compared,
    compared_largest,
    compared_medians,
    correlations_by_prompt,
    pooled_correlations,
    relative_errors,
    top_overlap,
)
from sae_pipeline.survey.attribution.topics import Topics
from sae_pipeline.survey.measurement import Measurement, too_few
from sae_pipeline.survey.thresholds import thresholds

FIGURE = "attribution_against_ablation"
ABSOLUTE = [pl.col(name).abs() for name in ("attribution", "ablation")]


def measurements(
    lm: LanguageModel, sae: SparseAutoencoder, prompts: Sequence[Prompt], chosen: Sequence[Prompt], pairs: pl.DataFrame,
    emotion: Sequence[pl.DataFrame], topics: Topics, settings: Attribution, likeliest: Collection[int],
) -> list[Measurement]:  # fmt: skip
    """All of them, in the order of the checklist. `pairs`: of the `chosen` prompts, which the model got right; `emotion`: of each
    prompt about an emotion whose target it finds likelier than the baseline; `likeliest`: ids of the prompts
    whose target is the likeliest token of all."""
    size, seed, sha = sae.n_features, settings.seed, prompts_sha()

    def measurement(name: str, metric: str, found: Compared | None, attempted: int, control: str, **more) -> Measurement:
        columns = {"value": None} if found is None else found.columns
        return Measurement(
            name, metric, n_scored=found.n if found else 0, n_attempted=attempted, size=size, control=control, files_sha=sha,
            rows="attribution_prompts", **columns, **more,
        )  # fmt: skip

    if not chosen:
        nothing = too_few("prompts that the model gets right", 0, thresholds().prompts_needed)
        return [measurement(name, "not measured", None, len(prompts), "none", **nothing) for name in (*NAMES, PREFERRED)]
    drawn, checked = pairs.filter("is_drawn"), pairs.drop_nulls("finite_difference")
    last = pairs.filter(pl.col("position") == pl.col("position").max().over("prompt_id"))
    others = checked.with_columns(pl.col("attribution").reverse().over("prompt_id"))
    errors = [relative_errors(each, "attribution", "finite_difference") for each in (checked, others)]
    correlations = [correlations_by_prompt(drawn, name, "ablation") for name in ("attribution", "activation")]
    overlaps = [top_overlap(drawn, name, "ablation") for name in ("attribution", "activation")]
    n = f"{drawn.height:,} drawn pairs"
    of_likeliest = on_likeliest(drawn, len(chosen), likeliest)
    found = [
        measurement(
            NAMES[0], "attribution against central differences, norm of the error over the norm, mean over prompts",
            compared(errors[0], errors[1], seed), len(prompts), "attribution of another pair of the prompt",
        ),
        measurement(
            NAMES[6], "attribution against central differences, norm of the error over the norm, worst of all prompts",
            compared_largest(errors[0], errors[1], seed), len(prompts), "attribution of another pair of the prompt",
        ),
        measurement(
            NAMES[1], f"Pearson correlation with the effect of ablation, {n} of all prompts together",
            pooled_correlations(drawn, "attribution", "activation", "ablation", seed), len(prompts), "activation", figure=FIGURE,
            why=of_likeliest,
        ),
        measurement(
            "attribution_ablation_correlation_median", f"median over prompts of the Pearson correlation with ablation, {n}",
            compared_medians(correlations[0], correlations[1], seed), len(prompts), "activation", why=of_likeliest,
        ),
        measurement(
            "attribution_ablation_correlation_absolute", f"the pooled correlation without regard to sign, {n}",
            pooled_correlations(drawn.with_columns(ABSOLUTE), "attribution", "activation", "ablation", seed), len(prompts),
            "activation",
        ),
        measurement(
            "attribution_ablation_correlation_last_position",
            f"the pooled correlation over every active feature at a prompt's last position, {last.height:,} pairs",
            pooled_correlations(last, "attribution", "activation", "ablation", seed), len(prompts), "activation",
        ),
        measurement(
            NAMES[2],
            "share of a prompt's ten largest effects among its ten largest attributions, of the pairs drawn at random "
            f"({drawn.height / len(chosen):.0f} of {pairs.height / len(chosen):.0f} active pairs per prompt), not of all",
            compared(overlaps[0], overlaps[1], seed), len(prompts), "its ten largest activations", why=of_likeliest,
        ),
        measurement(
            "top_10_overlap_last_position",
            f"the same of every active feature at the last position ({last.height / len(chosen):.0f} per prompt)",
            compared(top_overlap(last, "attribution", "ablation"), top_overlap(last, "activation", "ablation"), seed),
            len(prompts),
            "its ten largest activations",
        ),
    ]  # fmt: skip
    n_of = {group: sum(one.group == group for one in prompts) for group in ("emotion", "two_hop")}
    right = [pairs.filter(pl.col("prompt_id") == one.prompt_id) for one in chosen if one.group == "emotion"]
    # That few targets are among the likeliest tokens must not excuse a miss where the contrast, which attribution explains, is
    # there: the second reading takes every prompt that has it.
    lists = {
        (NAMES[3], "prompts about an emotion that the model gets right"): right,
        (PREFERRED, "prompts about an emotion whose target is likelier than its baseline"): emotion,
    }
    found.extend(_emotion(measurement, n_of["emotion"], lists, topics.about(read_words("emotion")), seed))
    found.append(_two_hop(measurement, n_of["two_hop"], chosen, pairs, topics, seed))
    shares, n_requests = refused_shares(lm, sae, topics.about(read_words("refusal")))
    columns = np.array(shares).reshape(-1, 2)
    found.append(measurement(
        NAMES[5], "share of features about refusing among the five largest attributions of the refusal's first word",
        compared(columns[:, 0], columns[:, 1], seed) if len(shares) else None, n_requests,
        "features active at the same positions", ceiling_metric="share of the harmless requests that are turned down",
        ceiling=len(shares) / n_requests, ceiling_threshold=thresholds().refused_needed,
    ))  # fmt: skip
    return found


NAMES = (
    "attribution_finite_difference_error", "attribution_ablation_correlation", "top_10_overlap", "emotion_among_top_features",
    "two_hop_middle_in_top_10", "refusal_attribution", "attribution_finite_difference_largest_error",
)  # fmt: skip
PREFERRED = "emotion_among_top_features_of_preferred"


def on_likeliest(drawn: pl.DataFrame, n_chosen: int, likeliest: Collection[int]) -> str:
    """The headlines once more, on the prompts whose target is the likeliest token: right in the strict sense."""
    strict = drawn.filter(pl.col("prompt_id").is_in(list(likeliest)))
    n = strict["prompt_id"].n_unique()
    told = (
        f"of {n_chosen} prompts with the target among the {thresholds().among_likeliest} likeliest tokens it is the first in {n}"
    )
    if not n:
        return told
    correlations, overlaps = (
        [of_prompt(strict, name, "ablation") for name in ("attribution", "activation")]
        for of_prompt in (correlations_by_prompt, top_overlap)
    )
    r, r_control = map(np.median, correlations)
    overlap, overlap_control = map(np.mean, overlaps)
    return (
        f"{told}: on these a median correlation of {r:.3f} (activation {r_control:.3f}), "
        f"a mean overlap of the ten largest of {overlap:.2f} ({overlap_control:.2f})"
    )


def _emotion(measurement, n: int, lists: Mapping[tuple[str, str], Sequence[pl.DataFrame]], about: frozenset[int], seed: int):
    """Share of features about emotion among the strongest; `lists`: pairs of some prompts, by measurement and its ceiling."""
    for (name, what), pairs in lists.items():
        shares = np.array([share_about(each, about) for each in pairs]).reshape(-1, 2)
        yield measurement(
            name, f"share of features about emotion ({len(about)} of all) among the five largest attributions, {what}",
            compared(shares[:, 0], shares[:, 1], seed) if len(shares) else None, n, "features active at the same positions",
            ceiling_metric=what, ceiling=float(len(shares)), ceiling_threshold=float(thresholds().prompts_needed),
        )  # fmt: skip


def _two_hop(measurement, n: int, chosen: Sequence[Prompt], pairs: pl.DataFrame, topics: Topics, seed: int):
    solved = [one for one in chosen if one.group == "two_hop"]
    hits = middles(pairs, solved, topics)
    return measurement(
        NAMES[4], "share of two-step facts with a feature of the unnamed middle among the ten largest effects",
        compared(*hits, seed) if solved else None, n, "middles of the other facts",
        **_ceiling(len(solved), "two-step facts"),
    )  # fmt: skip


def _ceiling(n_solved: int, what: str) -> dict:
    return {
        "ceiling_metric": f"{what} that the model gets right",
        "ceiling": float(n_solved),
        "ceiling_threshold": float(thresholds().prompts_needed),
    }
