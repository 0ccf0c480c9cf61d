"""The stage `attribution`: screen the prompts, measure the pairs of those that the model gets right, compare."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from sae_pipeline.attribution.attribute import attribute
from sae_pipeline.attribution.contrast import contrast
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey_search import Attribution
from sae_pipeline.survey.attribution.measure import FIGURE, measurements
from sae_pipeline.survey.attribution.pairs import measured_pairs, plain_pairs
from sae_pipeline.survey.attribution.prompts import Prompt, read_prompts
from sae_pipeline.survey.attribution.tables import feature_rows, prompt_rows
from sae_pipeline.survey.attribution.topics import Topics
from sae_pipeline.survey.measurement import write_measurements
from sae_pipeline.survey.parts import PARTS, kept
from sae_pipeline.survey.thresholds import thresholds

SCREENED = {"solved": pl.Boolean, "target_rank": pl.Int32, "logit_difference": pl.Float64}
PAIRS = {
    "position": pl.Int64, "feature": pl.Int64, "activation": pl.Float64, "attribution": pl.Float64, "prompt_id": pl.Int32,
    "token": pl.String, "ablation": pl.Float64, "finite_difference": pl.Float64, "is_drawn": pl.Boolean,
}  # fmt: skip


def build_attribution(
    lm: LanguageModel, sae_folder: Path, examples: Path, settings: Attribution, bos: bool, work: Path
) -> Outcome:
    """Write `attribution_prompts`, `attribution_features`, `measurements` and the figure into `work`.

    `lm`: in float32. `sae_folder`, `examples`: SAE and `feature_examples.parquet` of one size. A killed run keeps finished
    prompts.
    """
    from sae_pipeline.plots.attribution import scatter
    from sae_pipeline.plots.figure import THEMES

    sae = SparseAutoencoder.load(sae_folder, lm.device)
    prompts = read_prompts()
    screened = pl.DataFrame([_screen(lm, sae, prompt, bos) for prompt in prompts], schema=SCREENED)
    chosen = spread([prompt for prompt in prompts if screened["solved"][prompt.prompt_id]], settings.max_prompts)
    pairs = _all_pairs(lm, sae, chosen, settings, bos, work / PARTS)
    emotion = _preferred(lm, sae, prompts, screened, bos)
    prompt_rows(prompts, screened, pairs, sae.n_features).write_parquet(work / "attribution_prompts.parquet", compression="zstd")
    feature_rows(pairs, sae.n_features).write_parquet(work / "attribution_features.parquet", compression="zstd")
    found = measurements(lm, sae, prompts, chosen, pairs, emotion, Topics(examples), settings, _likeliest(screened))
    write_measurements(work, "attribution", found)
    for theme in THEMES:
        (work / f"{FIGURE}.{theme.name}.png").write_bytes(scatter(pairs, theme))
    shutil.rmtree(work / PARTS, ignore_errors=True)
    numbers = {one.measurement: one.value for one in found}
    return Outcome({"n_prompts": len(prompts), "n_solved": int(screened["solved"].sum()), "n_measured": len(chosen), **numbers})


def spread(prompts: Sequence[Prompt], n: int) -> list[Prompt]:
    """At most `n` prompts, taken in turn from every group, in order of id."""
    place: dict[str, int] = {}
    rank = {}
    for prompt in prompts:
        rank[prompt.prompt_id] = place[prompt.group] = place.get(prompt.group, 0) + 1
    first = sorted(prompts, key=lambda prompt: (rank[prompt.prompt_id], prompt.prompt_id))[:n]
    return sorted(first, key=lambda prompt: prompt.prompt_id)


def _screen(lm: LanguageModel, sae: SparseAutoencoder, prompt: Prompt, bos: bool) -> dict:
    """Whether the model gets it right. Words that are several tokens for this model's tokenizer are not asked for."""
    if any(len(lm.tokenize(word, bos=False)) != 1 for word in (prompt.target, prompt.baseline)):
        return {"solved": False, "target_rank": None, "logit_difference": None}
    found = attribute(lm, sae, contrast(lm, prompt.text, prompt.target, prompt.baseline, bos))
    solved = found.logit_difference > 0 and found.target_rank <= thresholds().among_likeliest
    return {"solved": solved, "target_rank": found.target_rank, "logit_difference": found.logit_difference}


def _likeliest(screened: pl.DataFrame) -> list[int]:
    """Prompts whose target is the likeliest next token of all."""
    return screened.with_row_index("prompt_id").filter(pl.col("target_rank") == 1)["prompt_id"].to_list()


def _preferred(
    lm: LanguageModel, sae: SparseAutoencoder, prompts: Sequence[Prompt], screened: pl.DataFrame, bos: bool
) -> list[pl.DataFrame]:  # fmt: skip
    """Active pairs of every prompt about an emotion whose target is likelier than its baseline, likely at all or not.

    Their lists of strongest intermediates are read off attribution alone, and need no ablation.
    """
    preferred = [
        prompt for prompt in prompts
        if prompt.group == "emotion" and (screened["logit_difference"][prompt.prompt_id] or 0.0) > 0
    ]  # fmt: skip
    return [
        plain_pairs(attribute(lm, sae, contrast(lm, prompt.text, prompt.target, prompt.baseline, bos))) for prompt in preferred
    ]


def _all_pairs(
    lm: LanguageModel, sae: SparseAutoencoder, prompts: Sequence[Prompt], settings: Attribution, bos: bool, folder: Path
) -> pl.DataFrame:

    def measure(prompt: Prompt) -> pl.DataFrame:
        attributed = attribute(lm, sae, contrast(lm, prompt.text, prompt.target, prompt.baseline, bos))
        return measured_pairs(lm, sae, attributed, prompt.prompt_id, settings)

    frames = []
    with bar("attribution: prompts", len(prompts), "prompts") as progress:
        for prompt in prompts:
            frames.append(kept(folder / f"{prompt.prompt_id}.parquet", partial(measure, prompt)))
            progress.update(1)
    return pl.concat(frames) if frames else pl.DataFrame(schema=PAIRS)
