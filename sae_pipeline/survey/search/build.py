"""The stage `concept_search`: both banks go through every search and every score."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.progress import track
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey_search import ConceptSearch
from sae_pipeline.survey.measurement import write_measurements
from sae_pipeline.survey.search.banks import Bank, direction_bank, feature_bank, sample_tokens
from sae_pipeline.survey.search.concepts import concepts_sha, read_concepts, read_words
from sae_pipeline.survey.search.contrast_and_sort import Profile, active_pairs, contrastive, sort
from sae_pipeline.survey.search.families import search
from sae_pipeline.survey.search.few_features import KS, accuracies
from sae_pipeline.survey.search.known_words import known_words, searched_words, word_rows
from sae_pipeline.survey.search.measure import Results, measurements
from sae_pipeline.survey.search.probes import data_sets, probe
from sae_pipeline.survey.search.reading import read_texts
from sae_pipeline.tables.schemas import conform, empty

RESULTS, WORDS, PROBES = (f"concept_search_{name}.parquet" for name in ("results", "words", "probes"))


@dataclass(frozen=True)
class Sources:
    """Published artefacts of one size."""

    lm: LanguageModel
    corpus: CorpusReader
    activations: ActivationReader
    sae: Path
    feature_stats: Path


def build_concept_search(sources: Sources, settings: ConceptSearch, bos: bool, work: Path) -> Outcome:
    """Write `concept_search_results`, `_words`, `_probes` and `measurements` into `work`. `UserError` for broken concepts."""
    folder = settings.concept_folder
    concepts, words = read_concepts(folder), read_words(folder)
    lm, reader, seed = sources.lm, sources.activations, settings.seed
    sae = SparseAutoencoder.load(sources.sae, lm.device)
    size = sae.n_features
    sample_N = sample_tokens(reader, "train", settings.n_sample_tokens, seed)
    banks = _banks(sae, reader, sample_N, sources.feature_stats, seed)
    searched = [search(lm, banks, each, bos, seed) for each in track(concepts, "search: concepts", unit="concepts")]
    known = known_words(lm, words, sources.corpus, reader, sources.feature_stats) if words else []
    if words and len(known) > 1:
        known = searched_words(lm, banks[0], known, words.templates, bos)
    sets = data_sets(sources.corpus, reader, settings.n_probe_train, settings.n_probe_test, seed)
    probed = [row for each in track(sets, "sparse probes", unit="data sets") for row in probe(each, banks, reader, seed)]
    pairs = [
        (reads[0], reads[1])
        for each in concepts
        for texts in zip(each.held_out.positives, each.held_out.negatives, strict=False)
        for reads in [read_texts(lm, banks[0], texts, bos)]
    ]
    told = _told_apart(banks, reader, sources.corpus, sample_N, pairs, settings)
    few = {k: np.array([accuracies(each, k, seed) for each in searched]) for k in KS}
    results = Results(
        size, searched, known, len(words.candidates) if words else 0, probed, told[0], told[1], few, seed, concepts_sha(folder)
    )
    found = measurements(results)
    write_measurements(work, "concept_search", found)
    _write("concept_search_results", [each.row(method, size, seed) for each in searched for method in each.unit], work / RESULTS)
    _write("concept_search_words", word_rows(known, size), work / WORDS)
    _write("concept_search_probes", [{"size": size} | vars(row) for row in probed], work / PROBES)
    return Outcome({"n_concepts": len(concepts), "n_known_words": len(known)} | {one.measurement: one.value for one in found})


def _banks(
    sae: SparseAutoencoder, reader: ActivationReader, sample_N: torch.Tensor, feature_stats: Path, seed: int
) -> tuple[Bank, Bank]:
    density = pl.read_parquet(feature_stats / "features.parquet", columns=["feature", "density"]).sort("feature")["density"]
    return feature_bank(sae), direction_bank(sae, reader.gather(sample_N), density.to_numpy(), seed)


def _told_apart(
    banks: tuple[Bank, Bank], reader: ActivationReader, corpus: CorpusReader, sample_N: torch.Tensor, pairs: list,
    settings: ConceptSearch,
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """(contrastive accuracy by pair, sort answers by item), each for features and for random directions."""
    ids_N = corpus.token_ids_BT.reshape(-1)
    held_out_N = sample_tokens(reader, "held_out", settings.n_sample_tokens // 4, settings.seed)
    contrasts, sorts = [], []
    for bank in banks:
        unit, row = active_pairs(bank, reader.gather(sample_N).float(), "train profile")
        sample_ids = ids_N[sample_N.numpy()]
        profile = Profile.of(unit, sample_ids[row], sample_ids, len(bank.rows_FD), len(corpus.token_text))
        contrasts.append(contrastive(bank, profile, pairs))
        unit, row = active_pairs(bank, reader.gather(held_out_N).float(), "held-out profile")
        sorts.append(sort(profile, unit, ids_N[held_out_N.numpy()][row], settings.n_sort_pairs, settings.seed))
    return contrasts, sorts


def _write(name: str, rows: list[dict], file: Path) -> None:
    conform(name, pl.DataFrame(rows, schema=empty(name).schema)).write_parquet(file, compression="zstd")
