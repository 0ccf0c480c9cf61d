"""The re-initialized model: what it is, what is known of its features, and that no example comes from where nothing is known."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.explanation_scores import rule_scores
from sae_pipeline.interpret.protocols import Explanation
from sae_pipeline.interpret.random_model import UNITS_FILE, build_random_model, choose_blocks, random_model_units
from sae_pipeline.interpret.rules import Rule, RuleIndex
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import load_units
from sae_pipeline.language_model.load import load_language_model, reinitialized_language_model
from sae_pipeline.study import RandomModel


@pytest.fixture(scope="module")
def made(finished_study):
    """(store, units of the control, corpus, the study's activations)."""
    store = finished_study.store
    (units,) = load_units(store.path("random_model") / UNITS_FILE)
    return store, units, CorpusReader.open(store.path("corpus")), ActivationReader.open(store.path("activations"))


def test_the_weights_are_new_seeded_and_nobody_elses_random_numbers_change(tiny_study):
    model, hook = tiny_study.model, tiny_study.hook
    before = torch.random.get_rng_state()
    first, again, other = (reinitialized_language_model(model, hook, seed, dtype="float32") for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    trained = load_language_model(model, hook, dtype="float32")
    name = "model.layers.0.mlp.down_proj.weight"
    weights = [dict(each.model.named_parameters())[name] for each in (first, again, other, trained)]
    assert torch.equal(weights[0], weights[1])
    assert float(weights[0].std()) == pytest.approx(float(weights[3].std()), rel=0.05)  # as large as the trained ones
    gain = "model.layers.0.input_layernorm.weight"
    assert torch.equal(*(dict(each.model.named_parameters())[gain] for each in (first, trained)))
    assert all(
        abs(float(torch.corrcoef(torch.stack([weights[0].flatten(), each.flatten()]))[0, 1])) < 0.1 for each in weights[2:]
    )
    assert first.tokenize("the harbour", bos=True) == trained.tokenize("the harbour", bos=True)


def test_blocks_are_drawn_from_both_sides_in_proportion():
    held_out_B = np.arange(100) % 5 == 4
    blocks = choose_blocks(held_out_B, context=10, n_tokens=400, seed=0)
    assert len(blocks) == 40 and held_out_B[blocks].sum() == 8 and (np.diff(blocks) > 0).all()
    assert blocks.tolist() == choose_blocks(held_out_B, 10, 400, 0).tolist() != choose_blocks(held_out_B, 10, 400, 1).tolist()
    assert choose_blocks(held_out_B, 10, 10**9, 0).tolist() == list(range(100))


def test_activations_are_those_of_the_random_model(made, tiny_study):
    """From the weights as they lie on disk, by the formula, on a block that was read."""
    store, units, corpus, _ = made
    weights = load_file(store.path("random_model") / "weights.safetensors")
    scale = json.loads((store.path("random_model") / "config.json").read_text())["scale"]
    lm = reinitialized_language_model(tiny_study.model, tiny_study.hook, tiny_study.random_model.seed, dtype="float32")
    block = int(units.seen[len(units.seen) // 2]) // corpus.context
    r_TD = lm.residual(torch.from_numpy(corpus.token_ids_BT[block : block + 1]))[0]
    z_TF = ((r_TD - weights["mean_D"]) * scale) @ weights["W_enc_FD"].T + weights["b_enc_F"]
    f_TF = torch.where(z_TF > weights["threshold_F"], z_TF, 0.0).clamp(min=0)
    found_TF = torch.zeros_like(f_TF)
    split = units.held_out if corpus.held_out_B[block] else units.train
    first = block * corpus.context
    for feature in range(split.n_units):
        token, value = split.of(feature)
        here = (token >= first) & (token < first + corpus.context)
        found_TF[token[here] - first, feature] = torch.from_numpy(value[here])
    seen_T = torch.from_numpy(np.isin(np.arange(first, first + corpus.context), units.seen))
    assert seen_T.sum() > corpus.context // 2 and not seen_T[0] and (found_TF > 0).any()
    assert torch.allclose(found_TF[seen_T], f_TF[seen_T], atol=1e-4)
    assert not found_TF[~seen_T].any()


def test_every_window_lies_where_its_activity_is_known(made):
    store, units, corpus, activations = made
    seen = set(units.seen.tolist())
    assert 0 < len(seen) < 0.6 * corpus.token_ids_BT.size
    for size in store.study.sae.sizes:
        scored = pl.read_parquet(store.path("specificity_scores", size) / "specificity_scores.parquet")
        mine = scored.filter(control="random_model")
        assert mine.height and set(mine["unit"]) == {"random_model_feature"} and mine["feature"].null_count() == mine.height
        assert set(mine["token_index"]) <= seen
        assert corpus.held_out_B[mine["token_index"].to_numpy() // corpus.context].all()
        active = {(row["unit_id"], row["token_index"]) for row in mine.filter(kind="active").to_dicts()}
        assert all(token in units.held_out.of(unit)[0] for unit, token in active)
        decoys = mine.filter(pl.col("kind") != "active")
        assert decoys.height and not any(
            t in units.held_out.of(u)[0] for u, t in decoys.select("unit_id", "token_index").iter_rows()
        )
        explained = pl.read_parquet(store.path("explanations", size) / "explanations.parquet").filter(control="random_model")
        assert explained.height == store.study.score.n_controls
    index = RuleIndex(TokenTable.of(corpus, activations))
    (chosen,) = random_model_units(store.path("random_model"), np.array([0.05, 0.1]), activations)
    token = int(corpus.token_ids_BT.reshape(-1)[chosen.held_out.of(0)[0][0]])
    rule = Explanation(chosen.unit, 0, "token-stats", "x", "token", Rule("token", (token,)).to_json(), "ok", 9)
    rows = {row.metric: row for row in rule_scores(index.only(chosen.seen), chosen, [rule, rule], 0) if row.column == 0}
    held = {t for t in seen if corpus.held_out_B[t // corpus.context] and corpus.token_ids_BT.reshape(-1)[t] == token}
    hit = held & set(chosen.held_out.of(0)[0].tolist())
    assert rows["rule_precision"].n == len(held) and rows["rule_precision"].value == pytest.approx(len(hit) / len(held))


def test_units_are_as_dense_as_what_they_stand_beside(made):
    store, units, corpus, activations = made
    n_train = int((~corpus.held_out_B[units.seen // corpus.context]).sum())
    live = [u for u in np.flatnonzero(units.held_out.count_U) if units.train.count_U[u] >= 10]
    wanted = units.train.count_U[live[3]] / n_train
    (chosen,) = random_model_units(store.path("random_model"), np.array([wanted]), activations)
    assert chosen.train.count_U[0] == units.train.count_U[live[3]] and chosen.ids[0] in live
    assert (chosen.train.of(0)[0] == units.train.of(int(chosen.ids[0]))[0]).all()


def test_the_control_can_be_left_out(made, tmp_path):
    store, _, _, activations = made
    outcome = build_random_model(
        store.path("corpus"), None, store.study.activations, store.study.control_sae, RandomModel(n_tokens=0), tmp_path
    )
    assert outcome.metadata == {"n_tokens": 0, "n_live": 0}
    assert random_model_units(tmp_path, np.array([0.1]), activations) == []
