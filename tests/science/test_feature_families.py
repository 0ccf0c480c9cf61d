"""Families and neighbourhoods whose truth was planted: who is whose child, what recurs, and whose label belongs where."""

import shutil

import numpy as np
import polars as pl
import pytest

from assets.feature_families import links_recomputed
from assets.neighbourhood_checks import strangers_are_strange
from sae_pipeline.features.sparse import SparseActivations
from sae_pipeline.study_survey_laws import FeatureFamilies, NeighbourhoodChecks
from sae_pipeline.survey.families.links import LinkRule, find_links, shuffled
from sae_pipeline.survey.families.measured import growth_measured, seeds_measured
from sae_pipeline.survey.families.seeds import chance_rows, mutual, nearest
from sae_pipeline.survey.feature_families import _recurrence
from sae_pipeline.survey.neighbourhood_checks import _correlation, draw, odd_one

D = 32
RULE = LinkRule(0.5, 0.7, 5)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def sparse(tokens_of_unit: list[list[int]]) -> SparseActivations:
    unit_Z = np.repeat(np.arange(len(tokens_of_unit)), [len(each) for each in tokens_of_unit])
    return SparseActivations.from_arrays(
        unit_Z, np.array([t for each in tokens_of_unit for t in each]), np.ones(len(unit_Z)), len(tokens_of_unit)
    )


@pytest.fixture(scope="module")
def family():
    """Two parents. Children: 0 and 1 of parent 0; 2 points to parent 1 and fires elsewhere; 3 fires with parent 1 and points
    elsewhere; 4 is broader than its parent; 5 fires too rarely."""
    axis = np.eye(D)
    parents = unit(np.stack([axis[0], axis[1]]))
    children = unit(np.stack([
        axis[0] + 0.5 * axis[2], axis[0] - 0.5 * axis[2], axis[1] + 0.3 * axis[3], axis[9], axis[1], axis[0],
    ]))  # fmt: skip
    fires = sparse([list(range(100)), list(range(200, 230))])
    child_fires = sparse([
        list(range(40)), [*range(60, 88), *range(500, 510)], list(range(600, 620)), list(range(200, 220)),
        list(range(200, 260)), [1, 2, 3],
    ])  # fmt: skip
    return parents, children, fires, child_fires


def test_a_child_points_and_fires_where_its_parent_does(family):
    parents, children, fires, child_fires = family
    links = find_links(parents, children, fires, child_fires, RULE)
    assert sorted(zip(links.parent_L.tolist(), links.child_L.tolist(), strict=True)) == [(0, 0), (0, 1)]
    row = links.child_L.tolist().index(1)
    assert links.parent_given_child_L[row] == pytest.approx(28 / 38) and links.child_given_parent_L[row] == pytest.approx(0.28)
    assert links.cosine_L[row] == pytest.approx(1 / np.sqrt(1.25)) and links.n_child_L[row] == 38
    assert links.children_of(2).tolist() == [2, 0] and links.n_judged == 5


def test_directions_dealt_out_make_no_families(family):
    parents, children, fires, child_fires = family
    dealt = shuffled(children, 0)
    assert sorted(map(tuple, dealt.tolist())) == sorted(map(tuple, children.tolist()))
    assert len(find_links(parents, np.roll(children, 3, axis=0), fires, child_fires, RULE).child_L) == 0


def test_growth_counts_children_of_the_smallest_size(family):
    parents, children, fires, child_fires = family
    many = find_links(parents, children, fires, child_fires, RULE)
    few = find_links(parents, children[:1], fires, child_fires.columns(np.array([0])), RULE)
    none = find_links(parents, children[2:3], fires, child_fires.columns(np.array([2])), RULE)
    (one,) = growth_measured([2, 3, 6], {(2, 3): few, (2, 6): many}, {(2, 3): none, (2, 6): none}, FeatureFamilies())
    assert one.value == pytest.approx(0.5) and one.control_value == 0 and one.n_scored == 2
    (short,) = growth_measured([2, 3], {(2, 3): few}, {(2, 3): none}, FeatureFamilies())
    assert short.status == "too_few_examples" and short.value is None


@pytest.fixture(scope="module")
def recurrence() -> pl.DataFrame:
    """40 features of which the first 30 come back (turned a little) in another seed; the first 10 are new."""
    random = np.random.default_rng(0)
    own = unit(random.normal(size=(40, D)))
    second = unit(np.concatenate([own[:30] + 0.02 * random.normal(size=(30, D)), random.normal(size=(10, D))]))[::-1]
    there, cosine, both = mutual(own, second)
    _, chance, chance_both = mutual(own, chance_rows(second, 0))
    return pl.DataFrame({
        "size": 40, "feature": np.arange(40), "smaller_cosine": np.where(np.arange(40) < 10, 0.1, 0.8),
        "second_seed_feature": there, "second_seed_cosine": cosine, "mutual": both, "chance_cosine": chance,
        "chance_mutual": chance_both,
    })  # fmt: skip


def test_what_recurs_is_found_and_chance_is_not(recurrence):
    new, every = seeds_measured(recurrence, 40, FeatureFamilies())
    assert every.value == pytest.approx(0.75) and every.control_value is not None and every.control_value < 0.1
    assert new.value == 1 and new.n_scored == 10 and new.difference_low is not None and new.difference_low > 0.5
    assert recurrence["second_seed_feature"].to_list()[:30] == list(range(39, 9, -1))
    empty = seeds_measured(recurrence.clear(), 40, FeatureFamilies())
    assert {one.status for one in empty} == {"too_few_examples"}


def test_new_is_what_no_smaller_sae_has():
    """Feature 0 has a twin in the smallest SAE, 1 in the middle one, 2 in neither."""
    axis = np.eye(D, dtype=np.float32)
    rows = {2: axis[[0, 9]], 3: axis[[1, 10, 11]], 4: axis[:4]}
    table = _recurrence(rows, 4, axis[:4], np.array([True, True, True, False]), FeatureFamilies())
    assert table["feature"].to_list() == [0, 1, 2] and table["smaller_cosine"].to_list() == pytest.approx([1, 1, 0])
    new, _ = seeds_measured(table, 4, FeatureFamilies())
    assert new.n_scored == 1
    alone = _recurrence({4: axis[:4]}, 4, axis[:4], np.full(4, True), FeatureFamilies())
    assert alone["smaller_cosine"].to_list() == [1] * 4  # without a smaller one nothing is new


def test_mutual_means_both_ways():
    first, second = unit(np.array([[1.0, 0], [0.9, 0.1]])), unit(np.array([[1.0, 0.01], [0, 1]]))
    there, _, both = mutual(first, second)
    assert there.tolist() == [0, 0] and both.tolist() == [True, False]
    assert nearest(first, second)[1] == pytest.approx((first @ second.T).max(1))


def test_chance_has_the_second_moments_of_the_decoder_and_none_of_its_rows():
    like = unit(np.random.default_rng(1).normal(size=(4000, 8)) * np.array([5, 1, 1, 1, 1, 1, 1, 1]))
    rows = chance_rows(like, 0)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    # Unit length evens them out a little; without them the share would be an eighth.
    assert (like[:, 0] ** 2).mean() > 0.5 and 0.35 < (rows[:, 0] ** 2).mean() < 0.6
    assert not np.allclose(rows, like, atol=0.1)


def test_the_odd_one_has_the_least_similar_label():
    labels = unit(np.array([[[1.0, 0], [1, 0.1], [0.9, 0], [0, 1]], [[0, 1], [1, 0], [1, 0.1], [1, 0]]]))
    assert odd_one(labels).tolist() == [3, 0]
    assert odd_one(np.repeat(labels[:, :1], 4, axis=1)).tolist() == [0, 0]  # ties are no success


def test_anchors_are_drawn_with_neighbours_and_a_stranger():
    near = pl.DataFrame(
        [(size, feature, (feature + rank) % 30, rank) for size in (30,) for feature in range(30) for rank in (1, 2, 3)],
        schema=["size", "feature", "neighbour", "rank"], orient="row",
    )  # fmt: skip
    drawn = draw(near, [i for i in range(30) if i != 7], NeighbourhoodChecks(n_anchors=20), 30)
    assert drawn.height == 20 and not (drawn == 7).to_numpy().any()
    for row in drawn.iter_rows(named=True):
        around = [n for n in ((row["feature"] + 1) % 30, (row["feature"] + 2) % 30, (row["feature"] + 3) % 30) if n != 7]
        assert [row["first"], row["second"]] == around[:2] and row["neighbour"] in around
        assert row["stranger"] not in {row["feature"], *around}


def test_label_similarity_is_a_rank_correlation_over_pairs():
    cosine = np.linspace(-0.5, 0.9, 60)
    pairs = pl.DataFrame({
        "feature": np.arange(60) % 30, "cosine": cosine, "label_similarity": np.exp(cosine),
        "dealt_similarity": np.random.default_rng(0).normal(size=60),
    })  # fmt: skip
    one = _correlation(30, pairs, "x", "all", NeighbourhoodChecks())
    assert one.value == pytest.approx(1) and one.low == pytest.approx(1, abs=1e-6)
    assert one.control_value == pytest.approx(0, abs=0.4) and one.difference_low is not None and one.difference_low > 0.4


@pytest.fixture(scope="module")
def surveyed(finished_study, tmp_path_factory):
    """A copy of the tiny study with the stages built as the command line builds them, checks included."""
    study = finished_study.at(tmp_path_factory.mktemp("surveyed") / "study")
    shutil.copytree(finished_study.folder, study.folder)
    for stage in ("neighbourhoods", "neighbourhood_checks", "feature_families"):
        code, output, errors = study.command("run", "--only", stage)
        assert code == 0, output + errors
    return study.store


def test_a_study_s_families_are_recomputed_and_a_wrong_link_is_seen(surveyed, tmp_path):
    folder = surveyed.path("feature_families")
    saes, stats = ({size: surveyed.path(stage, size) for size in (32, 64)} for stage in ("sae", "feature_stats"))
    links = pl.read_parquet(folder / "feature_links.parquet")
    assert links.height and links_recomputed(folder, saes, stats).passed
    links.with_columns(pl.col("parent_given_child") * 0.9).write_parquet(tmp_path / "feature_links.parquet")
    assert not links_recomputed(tmp_path, saes, stats).passed
    recurs = pl.read_parquet(folder / "feature_recurrence.parquet")
    assert set(recurs["size"]) == {64} and not (folder / "second_seed").exists()
    measured = pl.read_parquet(folder / "measurements.parquet")
    assert set(measured["measurement"]) == {"children_per_parent_growth", "novel_features_recurring", "cross_seed_share"}
    of_seeds = measured.filter(pl.col("measurement").is_in(["novel_features_recurring", "cross_seed_share"]))
    assert of_seeds["size"].to_list() == [64, 64]  # every size but the smallest


def test_a_study_s_strangers_are_no_neighbours(surveyed, tmp_path):
    folder, near = surveyed.path("neighbourhood_checks"), surveyed.path("neighbourhoods")
    asked = pl.read_parquet(folder / "odd_one_out.parquet")
    assert asked.height and strangers_are_strange(folder, near).passed
    asked.with_columns(stranger="first").write_parquet(tmp_path / "odd_one_out.parquet")
    assert not strangers_are_strange(tmp_path, near).passed
    rows = pl.read_parquet(folder / "measurements.parquet")
    assert {"label_similarity_of_neighbours", "odd_one_out_accuracy"} <= set(rows["measurement"])
