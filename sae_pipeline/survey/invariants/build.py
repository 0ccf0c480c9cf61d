"""The stage `invariants`: what must hold exactly if the pipeline is what it says it is, measured on the study's own artefacts."""

from collections.abc import Mapping
from pathlib import Path

import torch

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import bar
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey import Invariants
from sae_pipeline.survey.invariants.clamp import clamp_error
from sae_pipeline.survey.invariants.examples import samples_inside_their_interval
from sae_pipeline.survey.invariants.loss import loss_gradient_error, rescaling_invariance_error
from sae_pipeline.survey.invariants.recipe import (
    clipping_error,
    distinct_documents_per_batch,
    initialisation_error,
    schedule_error,
)
from sae_pipeline.survey.invariants.sampling import sample_rank_distance
from sae_pipeline.survey.invariants.space import decomposition_error, scaled_norm_error, some_tokens, stored_activation_error
from sae_pipeline.survey.measurement import write_measurements


def build_invariants(
    corpus_folder: Path, activations_folder: Path, sae_folders: Mapping[int, Path], feature_stats: Mapping[int, Path],
    lm: LanguageModel, settings: Invariants, work: Path,
) -> Outcome:  # fmt: skip
    """Write `measurements.parquet`. Folders are published artefacts, by size where there is one per size."""
    corpus, reader = CorpusReader.open(corpus_folder), ActivationReader.open(activations_folder, lm)
    saes = {size: SparseAutoencoder.load(folder) for size, folder in sae_folders.items()}
    smallest, seed = saes[min(saes)], settings.seed
    x_ND = reader.scaled(reader.gather(some_tokens(reader, "train", settings.n_tokens, seed)))
    held_out_ND = reader.gather(some_tokens(reader, "held_out", settings.n_tokens, seed))
    random = torch.Generator().manual_seed(seed)
    steps = (
        lambda: loss_gradient_error(smallest, x_ND, random),
        lambda: rescaling_invariance_error(smallest, x_ND, random),
        lambda: scaled_norm_error(reader, settings.n_norm_tokens, seed),
        lambda: schedule_error(sae_folders, {size: sae.config for size, sae in saes.items()}),
        lambda: clipping_error(x_ND, seed),
        lambda: initialisation_error(reader.d_model, seed),
        lambda: distinct_documents_per_batch(reader, smallest.config, settings.n_batches),
        lambda: decomposition_error(saes, held_out_ND),
        lambda: samples_inside_their_interval(feature_stats, seed),
        lambda: sample_rank_distance(feature_stats, seed),
        lambda: stored_activation_error(corpus, reader, lm, saes, feature_stats, settings.n_examples, seed),
        lambda: clamp_error(corpus, reader, lm, saes, feature_stats, settings.n_clamped, seed),
    )
    measured = []
    with bar("invariants", len(steps), "invariants") as progress:
        for step in steps:
            measured.append(step())
            progress.update(1)
    table = write_measurements(work, "invariants", measured)
    return Outcome({row["measurement"]: row["value"] for row in table.iter_rows(named=True)})
