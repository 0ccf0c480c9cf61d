"""The stage `feature_stats`: opens what it reads, and writes the features of one SAE."""

from pathlib import Path

from torch import Tensor

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.features.write import write_feature_stats
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import Outcome
from sae_pipeline.study import Features


def build_feature_stats(
    corpus_folder: Path,
    activations_folder: Path,
    sae_folder: Path,
    unembedding_DV: Tensor,
    settings: Features,
    size: int,
    work: Path,
) -> Outcome:
    """Statistics, examples, logit effects and the sorted activations of the SAE in `sae_folder` (see `write_feature_stats`).

    Products run on the device of `unembedding_DV`.
    """
    corpus, activations = CorpusReader.open(corpus_folder), ActivationReader.open(activations_folder)
    return write_feature_stats(
        corpus, activations, SparseAutoencoder.load(sae_folder, unembedding_DV.device), unembedding_DV, settings, size, work
    )
