"""The comparison at equal L0 on rows whose answer is known, and one SAE of ours from its first token to its row of results."""

import json
import sys

import numpy as np
import pytest
import torch

from bench.quality import frontier, ours, runs
from bench.quality.train import main, train


def rows(peer_offset: float, peer_l0: float, n_seeds: int = 3) -> list[dict]:
    """Ours on the line 0.1 log2(L0) (plus a level per seed), the peer `peer_offset` above it at its own L0."""
    made = []
    for seed in range(n_seeds):
        level = 0.05 * seed
        common = {"architecture": "topk", "seed": seed, "seconds": 1.0, "n_tokens_spliced": 9}
        for l0 in (16.0, 32.0, 64.0):
            value = level + 0.1 * np.log2(l0)
            made.append(
                common | {"contender": "ours", "sparsity": l0, "l0": l0, "explained_variance": value, "ce_recovered": value}
            )
        value = level + 0.1 * np.log2(peer_l0) + peer_offset + 0.001 * seed
        peer = {"contender": "SAELens", "sparsity": 5.0, "l0": peer_l0, "explained_variance": value, "ce_recovered": value}
        made.append(common | peer)
    return made


@pytest.mark.parametrize(("offset", "verdict"), [(0.05, "**below**"), (-0.05, "above"), (-0.001, "level")])
def test_a_known_distance_is_found_at_the_peers_l0(offset, verdict):
    made, left_out = frontier.compare(rows(offset, 45.0), "explained_variance")
    assert not left_out and len(made) == 1
    assert made[0].difference == pytest.approx([-offset, -offset - 0.001, -offset - 0.002])
    # Student's interval of three numbers 0.001 apart.
    assert made[0].half_width == pytest.approx(4.303 * 0.001 / 3**0.5, rel=1e-3)
    assert made[0].verdict == verdict


def test_a_peer_outside_of_our_sparsities_is_not_compared():
    for l0, compared in ((64.0 * 1.019, 1), (64.0 * 1.03, 0), (16 / 1.03, 0)):
        made, left_out = frontier.compare(rows(0.0, l0), "ce_recovered")
        assert (len(made), len(left_out)) == (compared, 1 - compared)
    assert "ours were measured from 16 to 64" in left_out[0]


def test_the_page_and_the_figure_are_made_of_the_rows():
    settings = runs.settings() | {"study": "unit", "product_dtype": "float32"}
    found = {"settings": settings, "machine": {"cpu": "c"}, "date": "d", "rows": rows(0.05, 32.0)}
    text = "\n".join(frontier.section(json.loads(json.dumps(found))))
    assert "| topk | SAELens 5 | 32.0 |" in text and "**below**" in text and "topk ours 1.0, SAELens 1.0" in text
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
