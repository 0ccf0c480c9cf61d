"""The stage `concept_search`: both banks go through every search and every score.

What is found for a concept, a word, a data set or a bank is a part: a killed run finds it again.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.plots.figure import write_figure
from sae_pipeline.plots.search import concept_families
from sae_pipeline.progress import track
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey_search import ConceptSearch
from sae_pipeline.survey.measurement import write_measurements
from sae_pipeline.survey.parts import PARTS, kept
from sae_pipeline.survey.search.banks import Bank, direction_bank, feature_bank, sample_tokens
from sae_pipeline.survey.search.concepts import Concept, concepts_sha, read_concepts, read_words
from sae_pipeline.survey.search.contrast_and_sort import Profile, active_pairs, contrastive, sort
from sae_pipeline.survey.search.families import search
from sae_pipeline.survey.search.few_features import KS, accuracies
from sae_pipeline.survey.search.known_words import known_words, searched_word, word_rows
from sae_pipeline.survey.search.measure import FIGURE, Results, measurements
from sae_pipeline.survey.search.probes import DataSet, Probed, data_sets, probe
from sae_pipeline.survey.search.reading import read_texts
from sae_pipeline.survey.thresholds import thresholds
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
    """Write `concept_search_results`, `_words`, `_probes`, `measurements` and a figure into `work`.

    `UserError` for broken concepts. A killed run keeps finished parts.
    """
    folder = settings.concept_folder
    concepts, words = read_concepts(folder), read_words(folder)
    lm, reader, seed = sources.lm, sources.activations, settings.seed
    sae = SparseAutoencoder.load(sources.sae, lm.device)
    size = sae.n_features
    sample_N = sample_tokens(reader, "train", settings.n_sample_tokens, seed)
    banks = _banks(sae, reader, sample_N, sources.feature_stats, seed)
    parts = _Parts(work / PARTS)

    def concept_rows(concept: Concept) -> list[dict]:
        searched = search(lm, banks, concept, bos, seed)
        few = {f"few_{k}": list(accuracies(searched, k, seed)) for k in KS}
        return [searched.row(method, size, seed) | few for method in searched.unit]

    searched = [
        row
        for i, each in enumerate(track(concepts, "search: concepts", unit="concepts"))
        for row in parts.rows(f"concept-{i}", partial(concept_rows, each))
    ]
    known = known_words(lm, words, sources.corpus, reader, sources.feature_stats) if words else []
    found_words: list[dict] = []
    if words and len(known) > 1:
        negatives = read_texts(lm, banks[0], words.templates.negatives, bos)

        def rows_of_word(place: int) -> list[dict]:
            return word_rows(searched_word(lm, banks[0], known, place, words.templates, negatives, bos), known, size)

        for i in track(range(len(known)), "search: words", unit="words"):
            found_words += parts.rows(f"word-{i}", partial(rows_of_word, i))
    sets = data_sets(sources.corpus, reader, settings.n_probe_train, settings.n_probe_test, seed)
    probed = [
        Probed(**row)
        for i, each in enumerate(track(sets, "sparse probes", unit="data sets"))
        for row in parts.rows(f"probe-{i}", partial(_probe_rows, each, banks, reader, seed))
    ]
    told = [
        parts.rows(f"told-apart-{i}", partial(_told_apart, bank, sources, sample_N, concepts, settings, bos))
        for i, bank in enumerate(banks)
    ]
    results = Results(
        size, searched, found_words, len(known), len(words.candidates) if words else 0, probed, _values(told, "pair"),
        np.array([row["concept"] for row in told[0] if row["kind"] == "pair"], np.int64), _values(told, "sort"),
        {k: np.array([row[f"few_{k}"] for row in searched if row["is_choice"]]) for k in KS}, seed,
        concepts_sha(folder),
    )  # fmt: skip
    found = measurements(results)
    write_measurements(work, "concept_search", found)
    _write("concept_search_results", searched, work / RESULTS)
    _write("concept_search_words", found_words, work / WORDS)
    _write("concept_search_probes", [{"size": size} | asdict(row) for row in probed], work / PROBES)
    write_figure(work, FIGURE, lambda theme: concept_families(searched, thresholds().found_auroc, theme))
    shutil.rmtree(work / PARTS, ignore_errors=True)
    return Outcome({"n_concepts": len(concepts), "n_known_words": len(known)} | {one.measurement: one.value for one in found})


@dataclass(frozen=True)
class _Parts:
    folder: Path

    def rows(self, name: str, make: Callable[[], list[dict]]) -> list[dict]:
        return kept(self.folder / f"{name}.parquet", lambda: pl.DataFrame(make(), infer_schema_length=None)).to_dicts()


def _banks(
    sae: SparseAutoencoder, reader: ActivationReader, sample_N: torch.Tensor, feature_stats: Path, seed: int
) -> tuple[Bank, Bank]:
    density = pl.read_parquet(feature_stats / "features.parquet", columns=["feature", "density"]).sort("feature")["density"]
    return feature_bank(sae), direction_bank(sae, reader.gather(sample_N), density.to_numpy(), seed)


def _probe_rows(data: DataSet, banks: tuple[Bank, Bank], reader: ActivationReader, seed: int) -> list[dict]:
    return [asdict(row) for row in probe(data, banks, reader, seed)]


def _told_apart(
    bank: Bank, sources: Sources, sample_N: torch.Tensor, concepts: Sequence[Concept], settings: ConceptSearch, bos: bool
) -> list[dict]:
    """Contrastive accuracy by pair, with the number of its concept, and sort answers by item."""
    corpus, reader = sources.corpus, sources.activations
    texts_of = [
        (number, list(texts))
        for number, each in enumerate(concepts)
        for texts in zip(each.held_out.positives, each.held_out.negatives, strict=False)
    ]
    pairs = [(reads[0], reads[1]) for _, texts in texts_of for reads in [read_texts(sources.lm, bank, texts, bos)]]
    ids_N = corpus.token_ids_BT.reshape(-1)
    unit, row = active_pairs(bank, reader.gather(sample_N).float(), "train profile")
    sample_ids = ids_N[sample_N.numpy()]
    profile = Profile.of(unit, sample_ids[row], sample_ids, len(bank.rows_FD), len(corpus.token_text))
    by_pair = contrastive(bank, profile, pairs)
    held_out_N = sample_tokens(reader, "held_out", settings.n_sample_tokens // 4, settings.seed)
    unit, row = active_pairs(bank, reader.gather(held_out_N).float(), "held-out profile")
    by_item = sort(profile, unit, ids_N[held_out_N.numpy()][row], settings.n_sort_pairs, settings.seed)
    numbers = [number for number, _ in texts_of]
    return [
        *({"kind": "pair", "concept": number, "value": float(x)} for number, x in zip(numbers, by_pair, strict=True)),
        *({"kind": "sort", "concept": None, "value": float(x)} for x in by_item),
    ]


def _values(told: Sequence[list[dict]], kind: str) -> list[np.ndarray]:
    return [np.array([row["value"] for row in rows if row["kind"] == kind]) for rows in told]


def _write(name: str, rows: list[dict], file: Path) -> None:
    table = [{column: row[column] for column in empty(name).columns} for row in rows]
    conform(name, pl.DataFrame(table, schema=empty(name).schema)).write_parquet(file, compression="zstd")
