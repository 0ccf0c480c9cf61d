"""The stage `steering_evals`: draw features, steer them beside controls, choose factors on one half, report on the other.

1. features, control features and concept terms are drawn before anything is generated (`selection`, `concepts`);
2. choosing half: every arm at every factor; each feature and each of its controls gets the factor of its own best quality;
3. reporting half: the chosen factors, and the other factors lightly for the dose curve;
4. scores, intervals and the pass mark, from the reporting half only.
"""

import shutil
from pathlib import Path

import polars as pl
import torch

from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.concepts import CorpusWords
from sae_pipeline.steering.generation import Generator
from sae_pipeline.steering.interventions import random_directions
from sae_pipeline.steering.plan import Amounts, Plan
from sae_pipeline.steering.prompts import load_prompts
from sae_pipeline.steering.results import choose, judged, metadata, tables
from sae_pipeline.steering.selection import draw_features
from sae_pipeline.store import Outcome
from sae_pipeline.study import Steer

PARTS = "parts"


def build_steering_evals(
    lm: LanguageModel,
    corpus: CorpusReader,
    feature_stats: Path,
    sae_folder: Path,
    steer: Steer,
    n_features: int,
    size: int,
    is_largest: bool,
    work: Path,
    batch_rows: int = 256,
) -> Outcome:
    """Write `steering_generations`, `steering_scores` and `steering_features` into `work`.

    `n_features`: how many features to draw (ignored when the study names features). Clamping on every size, addition on the
    largest too. `batch_rows`: texts generated at a time (256 texts of 60 tokens: 0.4 GB of keys and values on a 135 M model, and
    near the most tokens per second that 2 cores give). Finished batches of a killed run are used again. Raises `UserError` when
    no feature can be steered.
    """
    sae = SparseAutoencoder.load(sae_folder)
    words = CorpusWords.build(corpus.token_ids_BT, corpus.doc_ids_BT, corpus.held_out_B, corpus.token_text, lm.decode)
    draw = draw_features(
        pl.read_parquet(feature_stats / "features.parquet"),
        SparseActivations.open(feature_stats / "activations_train.parquet"),
        words, lm, sae, n_features, steer.n_controls, steer.features, steer.seed,
    )  # fmt: skip
    plan = Plan(
        draw=draw,
        prompts=load_prompts(steer.n_prompts),
        modes=["clamp", "add"] if is_largest else ["clamp"],
        factors=sorted(set(steer.factors)),
        amounts=Amounts(steer.choose_samples, steer.samples_per_prompt, steer.dose_samples),
        directions_UD=random_directions(steer.n_controls, lm.d_model, torch.Generator().manual_seed(steer.seed)),
    )
    generator = Generator(
        lm,
        sae,
        work / PARTS,
        steer.max_new_tokens,
        steer.temperature,
        steer.positions,
        steer.seed,
        f"steering {size}",
        batch_rows,
    )
    baseline = generator.run("baseline", plan.baseline_requests())
    choosing = judged(pl.concat([baseline, generator.run("choosing", plan.choosing_requests())]))
    chosen = choose(plan, choosing)
    reporting = generator.run("reporting", plan.reporting_requests(chosen))
    texts = judged(pl.concat([choosing.drop("fluent"), reporting]))
    frames = tables(plan, chosen, texts, size, steer.seed)
    for name, frame in frames.items():
        frame.write_parquet(work / f"{name}.parquet")
    shutil.rmtree(work / PARTS)
    return Outcome(metadata(plan, texts, frames["steering_features"]))
