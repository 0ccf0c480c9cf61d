"""The stage `case_studies`: the paper's cases of detection, each beside random directions."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey import CaseStudies
from sae_pipeline.survey.cases import (
    abstract,
    addition,
    code_error,
    list_position,
    multilingual,
    python_syntax,
    self_features,
    toy_features,
    zero_shot_chat,
)
from sae_pipeline.survey.cases.bank import Banks, random_bank
from sae_pipeline.survey.cases.case import FIGURE, Case, World
from sae_pipeline.survey.cases.parts import build_parts
from sae_pipeline.survey.cases.random_features import densities

CASES: dict[str, Case] = {
    "code_error": code_error.run,
    "addition_function": addition.run,
    "list_position": list_position.run,
    "python_syntax": python_syntax.run,
    "toy_features": toy_features.run,
    "multilingual": multilingual.run,
    "abstract": abstract.run,
    "zero_shot_chat": zero_shot_chat.run,
    "self_features": self_features.run,
}


def open_world(
    lm: LanguageModel, corpus: Path, activations: Path, feature_stats: Path, sae_folder: Path, settings: CaseStudies
) -> World:
    """The SAE with its random directions, and everything that the cases read."""
    sae = SparseAutoencoder.load(sae_folder, lm.device)
    reader = ActivationReader.open(activations, lm)
    r_ND, density_F = _threshold_sample(reader, settings), densities(feature_stats, sae.n_features)
    null = random_bank(sae, r_ND, density_F, settings.seed)
    return World(lm, Banks(sae, null), CorpusReader.open(corpus), reader, feature_stats, settings)


def rival_banks(world: World) -> list[SparseAutoencoder]:
    """`n_rival_groups` banks of random directions, each drawn by itself; the first is the null of detection."""
    settings, sae = world.settings, world.banks.features
    r_ND, density_F = _threshold_sample(world.activations, settings), densities(world.feature_stats, sae.n_features)
    more = range(1, settings.n_rival_groups)
    return [world.banks.null, *(random_bank(sae, r_ND, density_F, settings.seed + place) for place in more)]


def _threshold_sample(reader: ActivationReader, settings: CaseStudies) -> torch.Tensor:
    train_N = reader.token_index("train")
    random = torch.Generator().manual_seed(settings.seed)
    sample_N = train_N[torch.randperm(len(train_N), generator=random)[: settings.threshold_tokens]].sort().values
    return reader.gather(sample_N)


def build_case_studies(world: World, work: Path, cases: Mapping[str, Case] = CASES) -> Outcome:
    """Write `measurements`, `case_items` and `case_features` into `work`, and the figure."""
    return build_parts("case_studies", FIGURE, {name: partial(case, world) for name, case in cases.items()}, work)
