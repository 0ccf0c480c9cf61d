"""Ways to look for a concept's feature (paper, 'Searching for specific features'). Each scores every unit of a bank.

    single_prompt   the largest activation in one text
    prompt_sets     share of positive texts in which it is active minus that of negative ones, then the mean activation
    geometry        cosine with the mean residual of the positive texts minus that of the negative ones
    attribution     contribution to naming the concept after the positive texts
    classifier      weight in a sparse (L1) logistic regression, positive against negative texts

A higher score is a better find. Shapes: I texts, F units, D width.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from sae_pipeline.attribution.attribute import attribute
from sae_pipeline.attribution.contrast import contrast
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.survey.search.banks import Bank

METHODS = ("single_prompt", "prompt_sets", "geometry", "attribution", "classifier")
QUESTION = "\nThis is about"
N_ATTRIBUTED = 4  # positive texts, from the first on
MOST_CANDIDATES = 512  # units that the sparse classifier chooses from: those whose means differ most


def single_prompt(value_F: np.ndarray) -> np.ndarray:
    """The activations of one text (or token) themselves."""
    return value_F.astype(np.float64)


def prompt_sets(value_IF: np.ndarray, positive_I: np.ndarray) -> np.ndarray:
    """Share of positive texts in which a unit is active minus that of negative ones; ties by its mean where the concept is."""
    positive_IF, negative_IF = value_IF[positive_I], value_IF[~positive_I]
    share_F = (positive_IF > 0).mean(0) - (negative_IF > 0).mean(0)
    mean_F = positive_IF.mean(0, dtype=np.float64)
    return share_F + 0.5 / len(positive_IF) / len(value_IF) * mean_F / max(mean_F.max(), 1e-12)


def geometry(rows_FD: torch.Tensor, mean_ID: np.ndarray, positive_I: np.ndarray) -> np.ndarray:
    """Cosine of each unit's direction with the difference of means."""
    difference_D = mean_ID[positive_I].mean(0) - mean_ID[~positive_I].mean(0)
    return (rows_FD.numpy() @ difference_D / max(float(np.linalg.norm(difference_D)), 1e-12)).astype(np.float64)


def attribution(
    lm: LanguageModel, banks: Sequence[Bank], texts: Sequence[str], label: str, other: str, bos: bool, question: str = QUESTION
) -> list[np.ndarray]:
    """Per bank: largest attribution over positions of logit(label) - logit(other) after each text, mean over texts."""
    total = [np.zeros(len(bank.rows_FD)) for bank in banks]
    for text in texts:
        found = attribute(lm, banks[0].sae, contrast(lm, text + question, label, other, bos))
        kept_TD, slope_TD = found.r_TD[~found.masked_T], (found.gradient_TD / found.gain_T[:, None])[~found.masked_T]
        for sum_F, bank in zip(total, banks, strict=True):
            contribution_TF = bank.activations(kept_TD) * (slope_TD @ bank.rows_FD.T)
            sum_F += contribution_TF.max(0).values.numpy() / len(texts)
    return total


def separation(value_IF: np.ndarray, positive_I: np.ndarray) -> np.ndarray:
    """Difference of means in units of the pooled standard deviation; 0 where nothing varies."""
    gap_F = value_IF[positive_I].mean(0) - value_IF[~positive_I].mean(0)
    spread_F = np.sqrt((value_IF[positive_I].var(0) + value_IF[~positive_I].var(0)) / 2)
    return np.divide(gap_F, spread_F + 1e-3 * np.abs(value_IF).max(), where=spread_F > 0, out=np.zeros(len(gap_F)))


def classifier(value_IF: np.ndarray, positive_I: np.ndarray, seed: int) -> np.ndarray:
    """Weights of the sparse classifier; 0 for units that it does not use."""
    from sklearn.linear_model import LogisticRegression

    candidates = np.argsort(-np.abs(separation(value_IF, positive_I)), kind="stable")[:MOST_CANDIDATES]
    scale_F = np.maximum(value_IF[:, candidates].max(0), 1e-6)
    model = LogisticRegression(l1_ratio=1.0, C=1.0, solver="liblinear", random_state=seed, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a text set that cannot be separated does not converge: its weights are as good as any
        model.fit(value_IF[:, candidates] / scale_F, positive_I)
    weight_F = np.zeros(value_IF.shape[1])
    weight_F[candidates] = model.coef_[0]
    return weight_F
