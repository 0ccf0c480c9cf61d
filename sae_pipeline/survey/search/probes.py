"""Sparse probes over features against a dense probe of the residual, on data sets that the corpus itself provides (row 59).

Items are tokens; classes are balanced; documents of the test tokens are held out.

Shapes: N tokens, F units, K units of the probe, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.progress import track
from sae_pipeline.survey.search.banks import TOKENS_AT_ONCE, Bank
from sae_pipeline.survey.search.families import dense_probe
from sae_pipeline.survey.search.few_features import fitted_accuracy
from sae_pipeline.survey.thresholds import thresholds

MOST_K, KS = 32, (1, 5, 32)


@dataclass(frozen=True)
class DataSet:
    """A yes-or-no question about tokens. `index_N`: token indices; `positive_N`: the answers, half of them yes."""

    name: str
    train_N: np.ndarray
    train_positive_N: np.ndarray
    test_N: np.ndarray
    test_positive_N: np.ndarray


def data_sets(corpus: CorpusReader, reader: ActivationReader, n_train: int, n_test: int, seed: int) -> list[DataSet]:
    """Those with enough tokens of each class in both splits, balanced by drawing."""
    found = []
    for name, label_N in _labels(corpus):
        random = np.random.default_rng([seed, len(name)])
        parts = []
        for split, n in (("train", n_train), ("held_out", n_test)):
            index_N = reader.token_index(split).numpy()
            label = label_N[index_N]
            classes = [index_N[label == side] for side in (1, 0)]
            if min(map(len, classes)) < thresholds().probe_min_tokens:
                break
            half = min(n // 2, *map(len, classes))
            drawn = [np.sort(random.choice(each, half, replace=False)) for each in classes]
            parts += [np.concatenate(drawn), np.repeat([True, False], half)]
        else:
            found.append(DataSet(name, *parts))
    return found


def _labels(corpus: CorpusReader) -> Iterator[tuple[str, np.ndarray]]:
    """(name, answer by token index: 1 yes, 0 no, -1 not asked)."""
    ids_N, doc_N = corpus.token_ids_BT.reshape(-1), corpus.doc_ids_BT.reshape(-1)
    text_V = np.array(corpus.token_text, dtype=object)
    in_doc_N = doc_N >= 0
    for what, of_doc in (("source", corpus.source_of_doc), ("language", corpus.language_of_doc)):
        names, counts = np.unique(of_doc[doc_N[in_doc_N]], return_counts=True)
        for name in names[np.argsort(-counts, kind="stable")][:2]:
            answer_N = np.where(in_doc_N, (of_doc[np.maximum(doc_N, 0)] == name).astype(int), -1)
            yield f"{what} is {name}", answer_N
    starts_V = np.array([text.startswith(" ") for text in text_V])
    capital_V = np.array([text.strip()[:1].isupper() for text in text_V])
    sign_V = np.array([text.strip() != "" and not any(character.isalnum() for character in text) for text in text_V])
    next_N = np.roll(ids_N, -1)
    same_doc_N = in_doc_N & (np.roll(doc_N, -1) == doc_N)
    yield "next token begins a word", np.where(same_doc_N, starts_V[next_N].astype(int), -1)
    yield "next token is capitalised", np.where(same_doc_N, capital_V[next_N].astype(int), -1)
    yield "next token is punctuation", np.where(same_doc_N, sign_V[next_N].astype(int), -1)


@dataclass(frozen=True)
class Probed:
    """Held-out accuracies: of k units of each bank, and of the dense probe."""

    name: str
    k: int
    features: float
    directions: float
    dense: float
    n_test: int


def probe(data: DataSet, banks: tuple[Bank, Bank], reader: ActivationReader, seed: int) -> list[Probed]:
    """One row for each k."""
    r = [reader.gather(torch.from_numpy(index_N)).float() for index_N in (data.train_N, data.test_N)]
    x = [banks[0].sae.scaled(each).cpu().numpy() for each in r]
    dense = float((dense_probe(x[0], data.train_positive_N, seed).predict(x[1]) == data.test_positive_N).mean())
    columns = []
    for bank in banks:
        chosen_K = _most_separate(bank, r[0], data.train_positive_N)
        columns.append([bank.columns(each, chosen_K).numpy() for each in r])
    rows = []
    for k in KS:
        accuracy = [
            fitted_accuracy(train[:, :k], data.train_positive_N, test[:, :k], data.test_positive_N, seed)
            for train, test in columns
        ]
        rows.append(Probed(data.name, k, accuracy[0], accuracy[1], dense, len(data.test_N)))
    return rows


def _most_separate(bank: Bank, r_ND: torch.Tensor, positive_N: np.ndarray) -> np.ndarray:
    """The units whose means differ most between the classes, best first. Only sums over tokens are kept."""
    sums = {side: [np.zeros(len(bank.rows_FD)), np.zeros(len(bank.rows_FD))] for side in (True, False)}
    for start in track(range(0, len(r_ND), TOKENS_AT_ONCE), "probes", unit="batches"):
        f_NF = bank.activations(r_ND[start : start + TOKENS_AT_ONCE]).numpy().astype(np.float64)
        for side in (True, False):
            rows = f_NF[positive_N[start : start + TOKENS_AT_ONCE] == side]
            sums[side][0] += rows.sum(0)
            sums[side][1] += (rows**2).sum(0)
    n = {side: max(int((positive_N == side).sum()), 1) for side in (True, False)}
    mean = {side: sums[side][0] / n[side] for side in sums}
    variance_F = sum(sums[side][1] / n[side] - mean[side] ** 2 for side in sums) / 2
    gap_F = np.abs(mean[True] - mean[False]) / np.sqrt(np.maximum(variance_F, 1e-12))
    return np.argsort(-np.where(variance_F > 0, gap_F, 0), kind="stable")[:MOST_K]
