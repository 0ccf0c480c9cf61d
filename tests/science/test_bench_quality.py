"""The comparison at equal L0 and the search for it, where the answer is known; one SAE of ours, trained and trained again."""

import json
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch

from bench.quality import comparison, frontier, matching, ours, runs
from bench.quality.train import main, train


def row(contender: str, sparsity: float, l0: float, value: float, seed: int, architecture: str = "topk") -> dict:
    return {
        "contender": contender, "architecture": architecture, "sparsity": sparsity, "seed": seed, "l0": l0, "seconds": 1.0,
        "explained_variance": value, "ce_recovered": value, "n_tokens_spliced": 9,
    }  # fmt: skip


def rows(offset: float, deviation: float = 0.0, n_seeds: int = 3) -> list[dict]:
    """A peer at L0 45, ours (1 + `deviation`) times that in the last seed. Theirs is `offset` (and .001 more with every seed)
    above; ours of other sparsities, and of other seeds' L0, are far better and count for nothing."""
    made = []
    for seed in range(n_seeds):
        ours_l0 = 45.0 * (1 + deviation * (seed == n_seeds - 1))
        made += [row("ours", l0, l0, 0.99, seed) for l0 in (16.0, 64.0)]
        made.append(row("ours", 45.0, ours_l0, 0.5 + 0.1 * seed, seed))
        made.append(row("ours", 45.0, 45.0, 0.99, seed, architecture="gated"))
        made.append(row("SAELens", 5.0, 45.0, 0.5 + 0.1 * seed + offset + 0.001 * seed, seed))
    return made


@pytest.mark.parametrize(("offset", "verdict"), [(0.05, "**below**"), (-0.05, "above"), (-0.001, "level")])
def test_a_known_distance_is_found_at_the_peers_l0(offset, verdict):
    made, left_out = comparison.compare(rows(offset, 0.015), "explained_variance")
    assert not left_out and len(made) == 1
    assert made[0].difference == pytest.approx([-offset, -offset - 0.001, -offset - 0.002])
    # Student's interval of three numbers 0.001 apart.
    assert made[0].half_width == pytest.approx(4.303 * 0.001 / 3**0.5, rel=1e-3)
    assert made[0].verdict == verdict
    assert (made[0].their_l0, made[0].our_l0) == (45.0, pytest.approx(45 * 1.005))
    assert made[0].deviation == pytest.approx(0.015)


def test_one_seed_that_is_not_matched_leaves_a_peer_out():
    for deviation, compared in ((0.019, 1), (-0.019, 1), (0.021, 0), (-0.021, 0)):
        made, left_out = comparison.compare(rows(0.0, deviation), "ce_recovered")
        assert (len(made), len(left_out)) == (compared, 1 - compared)
    assert left_out == ["SAELens topk 5: L0 45.0, ours reached 44.7 (in one seed 2.1% away)"]
    without_a_seed = [one for one in rows(0.0) if (one["contender"], one["seed"]) != ("ours", 1)]
    assert comparison.compare(without_a_seed, "ce_recovered")[0] == []


def searched(architecture: str, l0_of, peer_l0: float, start: tuple[float, ...]) -> list[dict]:
    found = [row("ours", sparsity, l0_of(sparsity), 0.0, 1, architecture) for sparsity in start]
    found.append(row("SAELens", 5.0, peer_l0, 0.0, 1, architecture))
    for _ in range(matching.TRIES):
        for run in matching.proposals(found):
            found.append(row("ours", run.sparsity, l0_of(run.sparsity), 0.0, run.seed, run.architecture))
    return found


@pytest.mark.parametrize("peer_l0", [14.0, 24.0, 47.0, 95.0])
def test_the_search_reaches_a_peers_l0_on_a_bent_curve(peer_l0):
    found = searched("gated", lambda c: 400 * np.exp(-0.9 * np.log(c) - 0.25 * np.log(c) ** 2), peer_l0, (4.0, 7.0, 11.0))
    near = matching.nearest(found, found[3])
    assert near is not None and abs(near["l0"] / peer_l0 - 1) <= matching.GOAL
    assert len(found) <= 4 + matching.TRIES
    assert all(float(f"{one['sparsity']:.3g}") == one["sparsity"] for one in found)


def test_the_search_ends_at_the_best_whole_k():
    found = searched("batch_topk", lambda k: 0.92 * k, 28.1, (16.0, 32.0, 64.0))
    near = matching.nearest(found, found[3])
    assert near is not None and near["sparsity"] == 31.0  # 28.52 of 28.1; 30 gives 27.6, further away
    assert all(one["sparsity"].is_integer() for one in found) and not matching.proposals(found)


def test_the_search_sees_no_quality():
    first, second = (rows(offset, 0.04) for offset in (0.3, -0.3))
    assert matching.proposals(first) == matching.proposals(second) != []


def test_every_committed_comparison_is_at_equal_l0_in_every_seed():
    found = frontier.read()
    assert found is not None
    ours, theirs = defaultdict(list), defaultdict(list)
    for one in found["rows"]:
        if one["contender"] == "ours":
            ours[one["architecture"], one["seed"]].append(one)
        else:
            theirs[one["architecture"], one["contender"], one["sparsity"]].append(one)
    for metric in frontier.METRICS:
        made, _ = comparison.compare(found["rows"], metric)
        assert len({(one.architecture, one.peer) for one in made}) >= 12
        for one in made:
            peers = theirs[one.architecture, one.peer, one.sparsity]
            assert sorted(peer["seed"] for peer in peers) == found["settings"]["seeds"]
            for peer, difference in zip(peers, one.difference, strict=True):
                equal = [us for us in ours[peer["architecture"], peer["seed"]] if 0.98 <= us["l0"] / peer["l0"] <= 1.02]
                # It is the difference from an SAE of ours that was measured at this L0, not from a line between two.
                assert any(us[metric] - peer[metric] == difference for us in equal)


def test_a_comparison_across_penalty_forms_is_told_from_like_with_like():
    found = [row("ours", 0.6, 26.0, 0.60 + 0.001 * seed, seed, "jumprelu") for seed in range(3)]
    found += [row("dictionary_learning", 24.0, 26.0, 0.62, seed, "jumprelu") for seed in range(3)]
    found += [row("SAELens", 5.0, 26.0, 0.55, seed, "jumprelu") for seed in range(3)]
    like, across = comparison.conclusion(comparison.compare(found, "explained_variance")[0], "explained variance")
    assert "jumprelu above (+0.0510, SAELens)" in like and "dictionary_learning" not in like
    assert "**below**" in across and "-0.0190" in across


def test_the_page_and_the_figure_are_made_of_the_rows():
    settings = runs.settings() | {"study": "unit", "product_dtype": "float32"}
    found = {"settings": settings, "machine": {"cpu": "c"}, "date": "d", "rows": rows(0.05)}
    text = "\n".join(frontier.section(json.loads(json.dumps(found))))
    assert "| topk | SAELens 5 | 45.00 | 45.00 | 0.0% |" in text and "**below**" in text and "topk ours 1.0, SAELens 1.0" in text
    assert frontier.figure(found).startswith(b"\x89PNG")


def test_every_contender_has_sparsities_and_runs_have_names_of_their_own():
    every = runs.all_runs()
    assert len({run.key for run in every}) == len(every)
    assert {len(by_contender[runs.OURS]) for by_contender in runs.SPARSITIES.values()} == {3}


@pytest.mark.parametrize("architecture", runs.SPARSITIES)
def test_our_runs_are_equal_when_repeated_and_learn(tmp_path, monkeypatch, architecture):
    for module in (runs, ours, sys.modules[train.__module__]):
        for name, value in (("N_FEATURES", 96), ("BATCH", 64), ("N_STEPS", 12)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    x_ND = torch.randn(64 * 12, 32, generator=torch.Generator().manual_seed(0)).numpy()
    run = runs.Run(runs.OURS, architecture, runs.SPARSITIES[architecture][runs.OURS][0], seed=1)
    for name in ("one", "other"):
        train(run, x_ND, tmp_path / name, ours.make)
    one, other = ((tmp_path / name / run.key / "weights.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other
    assert json.loads((tmp_path / "one" / run.key / "trained.json").read_text())["seconds"] >= 0


def test_nothing_is_begun_after_its_time(tmp_path, monkeypatch):
    np.save(tmp_path / "train.npy", np.zeros((4, 3), dtype=np.float32))
    monkeypatch.setattr(sys, "stdin", [json.dumps(runs.all_runs()[0].as_dict())])
    main(runs.OURS, str(tmp_path), "-1")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["train.npy"]
