"""Scores of a trained SAE's features and of the nulls, on activations of which a test says what they follow.

Words set off axes 0 to 3, three tokens axis 4, nothing axis 5; axes 6 to 11 are noise that follows no text.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import Units, save_units
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study_survey_laws import NullModels
from sae_pipeline.survey.experiments.null_scores import (
    FROZEN,
    PCA,
    RANDOM,
    RANDOM_MODEL,
    TRAINED,
    arms_to_score,
    feature_units,
    score_units,
)
from sae_pipeline.survey.experiments.untrained import PrincipalComponents
from sae_pipeline.survey.null_measurements import scores_measured
from tests.science.interpret_world import CONTEXT, make_tokens, sparse_of, token

N_DOCUMENTS = 160
WORDS = (" island", " judge", " coast", " verdict")
RARE, D, N_NOISE = np.array([70, 300, 4 * CONTEXT + 7]), 12, 6
SEEN = np.arange(N_DOCUMENTS * CONTEXT) // CONTEXT % 10 >= 3  # the blocks that the random model's SAE saw; some are held out


@cache
def tokens() -> TokenTable:
    return make_tokens(N_DOCUMENTS)


def of_word(word: str) -> np.ndarray:
    return (tokens().token_id_N == token(word)) & tokens().kept_N


def activations() -> torch.Tensor:
    random, r_ND = np.random.default_rng(0), np.zeros((tokens().n_tokens, D), np.float32)
    strength_N = random.uniform(0.1, 1.0, tokens().n_tokens)
    for axis, word in enumerate(WORDS):
        r_ND[:, axis] = strength_N * of_word(word)
    r_ND[RARE, 4] = 1.0
    r_ND[:, D - N_NOISE :] = random.normal(size=(tokens().n_tokens, N_NOISE))
    return torch.from_numpy(r_ND)


class Reader:
    """Stands where an `ActivationReader` does."""

    d_model, context = D, CONTEXT

    def __init__(self) -> None:
        self.r_ND, self.held_out_B = activations(), torch.from_numpy(tokens().held_out_N[::CONTEXT].copy())

    def token_index(self, split: str) -> torch.Tensor:
        return torch.from_numpy(np.flatnonzero(tokens().train_N if split == "train" else tokens().test_N))

    def gather(self, index_N: torch.Tensor) -> torch.Tensor:
        return self.r_ND[index_N]

    def scaled(self, r_ND: torch.Tensor) -> torch.Tensor:
        return r_ND


@cache
def reader() -> Any:
    return Reader()


def sae(first: int, threshold: float) -> SparseAutoencoder:
    """Six features that read six axes."""
    rows_FD = torch.eye(D)[first : first + 6]
    weights = {
        "W_enc_FD": rows_FD, "b_enc_F": torch.zeros(6), "W_dec_FD": rows_FD, "b_dec_D": torch.zeros(D),
        "threshold_F": torch.full((6,), threshold), "mean_D": torch.zeros(D),
    }  # fmt: skip
    config = {"architecture": "batch_topk", "n_features": 6, "d_model": D, "scale": 1.0, "threshold_norm": 1e6}
    return SparseAutoencoder(weights, config)


def components() -> PrincipalComponents:
    """Axis 0 with its sign turned, axis 1 as it is, noise."""
    sign_D = torch.ones(D)
    sign_D[0] = -1
    order = [0, 1, *range(6, 12), *range(2, 6)]
    return PrincipalComponents(torch.zeros(D), torch.diag(sign_D)[order], 3)


def random_model(folder: Path) -> Path:
    """A stored control whose features fire on words, within the blocks it saw."""
    masks = [of_word(word) & SEEN for word in (" appeal", " anchor")]
    train, held_out = sparse_of(masks, tokens().train_N, 3), sparse_of(masks, tokens().test_N, 4)
    seen = np.flatnonzero(SEEN & tokens().kept_N)
    units = Units("random_model_feature", np.array([11, 12]), train, held_out, np.arange(2), seen)
    save_units([units], folder / "units.safetensors")
    return folder


@pytest.fixture(scope="module")
def arms(tmp_path_factory) -> dict[str, Units]:
    folder = random_model(tmp_path_factory.mktemp("random_model"))
    return arms_to_score(reader(), sae(0, 0.05), sae(6, 1.9), components(), folder, n_units=10, seed=0)


@pytest.fixture(scope="module")
def scores(arms) -> pl.DataFrame:
    return score_units(RuleIndex(tokens()), arms, seed=0)


def active(units: Units, column: int, split: str) -> list[int]:
    return (units.train if split == "train" else units.held_out).of(column)[0].tolist()


def where(mask_N: np.ndarray, split: str) -> list[int]:
    return np.flatnonzero(mask_N & (tokens().train_N if split == "train" else tokens().test_N)).tolist()


def n_intervals(axis: int) -> int:
    """How many tenths of the training maximum occur among held-out activations of an axis: a window is drawn from each."""
    value_N = reader().r_ND[:, axis].numpy()
    held_out = value_N[tokens().test_N & (value_N > 0)] / value_N[tokens().train_N].max()
    return len(set(np.clip(np.ceil(10 * held_out), 1, 10).tolist()))


# --- which units


def test_the_features_that_are_drawn_have_enough_activations_and_all_of_them():
    units = feature_units(sae(0, 0.05), reader(), 10, seed=0)
    assert units.ids.tolist() == [0, 1, 2, 3] and units.seen is None  # neither the rare nor the dead one
    for column, word in enumerate(WORDS):
        for split in ("train", "held_out"):
            assert active(units, column, split) == where(of_word(word), split)
        index, value = units.train.of(column)
        np.testing.assert_array_equal(value, reader().r_ND[index, column])


def test_a_sample_of_features_and_of_tokens_keeps_what_belongs_to_it():
    few = feature_units(sae(0, 0.05), reader(), 2, seed=0, n_tokens=1500)
    assert len(few.ids) == 2 and few.seen is not None and set(few.ids) <= set(range(4))
    seen_N = np.isin(np.arange(tokens().n_tokens), few.seen)
    for split, mask_N in (("train", tokens().train_N), ("held_out", tokens().test_N)):
        assert 0 < (seen_N & mask_N).sum() <= 1500
        for column, feature in enumerate(few.ids):
            assert active(few, column, split) == where(of_word(WORDS[feature]) & seen_N, split)


def test_every_null_is_as_dense_as_the_trained_features_that_were_drawn(arms):
    assert list(arms) == [TRAINED, FROZEN, PCA, RANDOM, RANDOM_MODEL]
    count_U = arms[TRAINED].train.count_U
    for name in (PCA, RANDOM):
        assert arms[name].train.count_U.tolist() == count_U.tolist()
    # A component has no sign of its own: read the other way round, axis 0 would be active wherever the word is not.
    for column in (0, 1):
        assert active(arms[PCA], column, "held_out") == where(of_word(WORDS[column]), "held_out")
    noise = reader().r_ND[:, 6].numpy()
    assert active(arms[FROZEN], 0, "train") == where(noise > 1.9, "train")
    assert arms[RANDOM_MODEL].ids.tolist() == [11, 12] and arms[RANDOM_MODEL].seen is not None


def test_a_study_without_a_random_model_has_no_such_arm(tmp_path):
    save_units([], tmp_path / "units.safetensors")
    arms = arms_to_score(reader(), sae(0, 0.05), sae(6, 1.9), components(), tmp_path, n_units=2, seed=0)
    assert list(arms) == [TRAINED, FROZEN, PCA, RANDOM] and {len(units.ids) for units in arms.values()} == {2}


# --- their scores


def test_features_of_words_reach_every_point_and_noise_does_not(scores):
    trained = scores.filter(arm=TRAINED)
    assert trained["unit_id"].to_list() == [0, 1, 2, 3]
    assert trained["specificity"].to_list() == [3.0] * 4 and trained["rule_f1"].to_list() == [1.0] * 4
    share = [of_word(word)[tokens().train_N].mean() for word in WORDS]
    assert trained["density"].to_list() == pytest.approx(share)
    assert trained["n_windows"].to_list() == [n_intervals(axis) for axis in range(4)]
    components = scores.filter(arm=PCA).sort("unit_id")
    assert components["rule_f1"].to_list()[:2] == [1.0, 1.0] and components["specificity"].to_list()[:2] == [3.0, 3.0]
    noise = pl.concat([scores.filter(arm=FROZEN), components[2:]])
    assert noise.height == N_NOISE + 2 and noise["rule_f1"].max() < 0.3 and noise["specificity"].mean() < 1.5


def test_what_was_seen_in_part_is_scored_there_alone(scores):
    """Outside the blocks that it saw the control's words stand as often, and nothing is known of its features."""
    rows = scores.filter(arm=RANDOM_MODEL).sort("unit_id")
    assert rows["rule_f1"].to_list() == [1.0, 1.0] and rows["specificity"].to_list() == [3.0, 3.0]
    share = [of_word(word)[tokens().train_N & SEEN].mean() for word in (" appeal", " anchor")]
    assert rows["density"].to_list() == pytest.approx(share)


def test_units_without_an_explanation_or_held_out_activity_have_no_score(arms):
    rare, island = np.isin(np.arange(tokens().n_tokens), RARE), of_word(" island")
    train, held_out = sparse_of([rare, island], tokens().train_N), sparse_of([rare, rare & island], tokens().test_N)
    units = Units("random_direction", np.arange(2), train, held_out, np.arange(2))
    rows = score_units(RuleIndex(tokens()), {TRAINED: arms[TRAINED], RANDOM: units}, seed=0).filter(arm=RANDOM)
    assert rows["specificity"].null_count() == rows["rule_f1"].null_count() == 2 and rows["n_windows"].to_list() == [0, 0]


def test_the_measurement_stands_beside_each_null_and_beside_the_strongest(scores):
    rows = {one.measurement: one for one in scores_measured(scores, NullModels())}
    control = {name: scores.filter(arm=name)["specificity"].mean() for name in (FROZEN, PCA, RANDOM, RANDOM_MODEL)}
    for name, value in control.items():
        one = rows[f"specificity_over_{name.replace(' ', '_')}"]
        assert one.value == 3.0 and one.control_value == pytest.approx(value) and (one.n_scored, one.n_attempted) == (4, 4)
    assert rows["rule_f1_over_frozen_decoder"].difference_low > 0.5  # pyright: ignore[reportOptionalOperand]
    # A model that learned nothing and does as well leaves nothing to the trained one.
    strongest = rows["specificity_of_nulls"]
    assert strongest.control_value == 3.0 and strongest.difference_low == strongest.difference_high == 0.0
    assert strongest.control is not None and strongest.control.startswith(RANDOM_MODEL) and strongest.n_control == 2
    alone = scores.with_columns(specificity=pl.when(pl.col("arm") == TRAINED).then(None).otherwise("specificity"))
    (missing,) = (one for one in scores_measured(alone, NullModels()) if one.measurement == "specificity_of_nulls")
    assert missing.value is None and missing.status == "too_few_examples" and missing.n_scored == 0
