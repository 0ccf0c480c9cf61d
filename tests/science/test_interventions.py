"""Clamp and add: the short form against the definition, the masks, and their effect on a language model."""

import pytest
import torch

from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.sae.parameters import Parameters
from sae_pipeline.steering.interventions import Intervention, Push, pushes, random_directions
from sae_pipeline.study import FolderModel, Hook

N_FEATURES, D_MODEL, FAR = 24, 16, 1e9


def folded_sae(
    architecture: str = "relu_l1", d_model: int = D_MODEL, threshold: float = 0.0, k: int | None = None, seed: int = 0
):
    """An SAE with s != 1, mu != 0 and decoder norms from 0.5 to 3 before folding."""
    draw = torch.Generator().manual_seed(seed)
    W_dec_FD = torch.randn(N_FEATURES, d_model, generator=draw)
    W_dec_FD *= torch.linspace(0.5, 3, N_FEATURES)[:, None] / W_dec_FD.norm(dim=1, keepdim=True)
    parameters = Parameters(
        W_enc_FD=torch.nn.Parameter(torch.randn(N_FEATURES, d_model, generator=draw)),
        b_enc_F=torch.nn.Parameter(0.1 * torch.randn(N_FEATURES, generator=draw)),
        W_dec_FD=torch.nn.Parameter(W_dec_FD),
        b_dec_D=torch.nn.Parameter(torch.randn(d_model, generator=draw)),
    )
    config = {"architecture": architecture, "scale": 0.37, "k": k, "threshold_norm": FAR}
    return SparseAutoencoder.from_parameters(parameters, False, threshold, torch.linspace(-2, 3, d_model), config)


@pytest.mark.parametrize(
    "architecture, threshold, k",
    [("relu_l1", 0.0, None), ("batch_topk", 1.5, None), ("batch_topk", -4.0, None), ("topk", 0.0, 5)],
)
@pytest.mark.parametrize("multiple", [-2.0, 0.0, 5.0])
def test_short_clamp_equals_decoding_the_clamped_code_plus_the_error(architecture, threshold, k, multiple):
    sae = folded_sae(architecture, threshold=threshold, k=k)
    r_BTD = 3 * torch.randn(2, 7, D_MODEL, generator=torch.Generator().manual_seed(1)) + sae.mean_D
    f_NF = sae.encode(r_BTD.reshape(-1, D_MODEL))
    feature = int((f_NF > 0).sum(0).argmax())
    assert 0 < int((f_NF[:, feature] > 0).sum()) <= 14
    c = multiple * float(f_NF[:, feature].max())
    clamped_NF = f_NF.clone()
    clamped_NF[:, feature] = c
    error_ND = r_BTD.reshape(-1, D_MODEL) - sae.decode(f_NF)
    long_ND = sae.decode(clamped_NF) + error_ND
    short_BTD = Intervention(sae, [[Push(c, "clamp", feature)]], FAR)(r_BTD, None, 0)
    torch.testing.assert_close(short_BTD.reshape(-1, D_MODEL), long_ND, atol=1e-4, rtol=0)
    assert (short_BTD - r_BTD).abs().max() > 0.01


def test_several_features_are_clamped_at_once():
    sae = folded_sae()
    r_BTD = 3 * torch.randn(1, 5, D_MODEL, generator=torch.Generator().manual_seed(2))
    f_NF = sae.encode(r_BTD[0])
    clamped_NF = f_NF.clone()
    clamped_NF[:, 3], clamped_NF[:, 11] = 4.0, -1.0
    long_ND = sae.decode(clamped_NF) + r_BTD[0] - sae.decode(f_NF)
    short_BTD = Intervention(sae, [pushes({3: 4.0, 11: -1.0}, "clamp", N_FEATURES)], FAR)(r_BTD, None, 0)
    torch.testing.assert_close(short_BTD[0], long_ND, atol=1e-4, rtol=0)


def test_add_moves_by_c_over_s_along_the_unit_row_whatever_the_activation():
    sae = folded_sae()
    r_BTD = torch.randn(1, 4, D_MODEL, generator=torch.Generator().manual_seed(3))
    moved_BTD = Intervention(sae, [[Push(2.5, "add", 7)]], FAR)(r_BTD, None, 0) - r_BTD
    torch.testing.assert_close(moved_BTD, (2.5 / 0.37 * sae.W_dec_FD[7]).expand(1, 4, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved_BTD.norm(dim=-1), torch.full((1, 4), 2.5 / 0.37))


def test_an_sae_with_orthonormal_decoder_reads_the_clamped_value_back():
    basis_DD = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(4))).Q
    weights = {
        "W_enc_FD": basis_DD.clone(), "b_enc_F": torch.full((D_MODEL,), 6.0), "W_dec_FD": basis_DD.clone(),
        "b_dec_D": torch.zeros(D_MODEL), "threshold_F": torch.zeros(D_MODEL), "mean_D": torch.linspace(-1, 1, D_MODEL),
    }  # fmt: skip
    sae = SparseAutoencoder(weights, {"architecture": "relu_l1", "scale": 0.5, "threshold_norm": FAR})
    r_BTD = torch.randn(1, 6, D_MODEL, generator=torch.Generator().manual_seed(5))
    steered_BTD = Intervention(sae, [[Push(3.25, "clamp", 9)]], FAR)(r_BTD, None, 0)
    before_NF, after_NF = sae.encode(r_BTD[0]), sae.encode(steered_BTD[0])
    assert bool((before_NF > 0).all())  # where a feature is off, its pre-activation would come back too
    torch.testing.assert_close(after_NF[:, 9], torch.full((6,), 3.25), atol=1e-4, rtol=0)
    others = [i for i in range(D_MODEL) if i != 9]
    torch.testing.assert_close(after_NF[:, others], before_NF[:, others], atol=1e-4, rtol=0)


def test_every_row_has_its_own_push_and_an_empty_row_keeps_its_bits():
    sae = folded_sae()
    r_BTD = torch.randn(3, 4, D_MODEL, generator=torch.Generator().manual_seed(6)).bfloat16()
    both = Intervention(sae, [[Push(5.0, "clamp", 1)], [], [Push(5.0, "add", 2), Push(1.0, "clamp", 3)]], FAR)
    steered_BTD = both(r_BTD, None, 0)
    assert steered_BTD.dtype == torch.bfloat16
    assert torch.equal(steered_BTD[1], r_BTD[1])
    alone_BTD = Intervention(sae, [[Push(5.0, "clamp", 1)]], FAR)(r_BTD, None, 0)
    torch.testing.assert_close(steered_BTD[0], alone_BTD[0])
    with pytest.raises(ValueError, match="3 rows met a batch of 2"):
        both(r_BTD[:2], None, 0)


def test_repeated_rows_follow_their_prompt():
    sae = folded_sae()
    edit = Intervention(sae, [[Push(5.0, "add", 1)], [Push(5.0, "add", 2)]], FAR, repeats=[1, 2])
    r_BTD = torch.randn(3, 1, D_MODEL, generator=torch.Generator().manual_seed(7))
    moved_BD = (edit(r_BTD, None, 4) - r_BTD)[:, 0] * 0.37 / 5
    torch.testing.assert_close(moved_BD, sae.W_dec_FD[[1, 2, 2]], atol=1e-5, rtol=0)


def test_positions():
    sae = folded_sae()
    r_BTD = torch.ones(1, 4, D_MODEL)
    r_BTD[0, 0] *= 100  # massive
    pushed = [[Push(5.0, "add", 1)]]
    moved = {
        positions: [bool(moved) for moved in (Intervention(sae, pushed, 50.0, positions)(r_BTD, None, 0) != r_BTD).any(-1)[0]]
        for positions in ("not_massive", "all", "prompt", "response")
    }
    assert moved == {
        "not_massive": [False, True, True, True], "all": [True] * 4, "prompt": [False, True, True, False],
        "response": [False, False, False, True],
    }  # fmt: skip
    later = Intervention(sae, pushed, 50.0, "response")(r_BTD[:, 2:], None, 4)
    assert bool((later != r_BTD[:, 2:]).any(-1).all())
    assert torch.equal(Intervention(sae, pushed, 50.0, "prompt")(r_BTD[:, 2:], None, 4), r_BTD[:, 2:])


def test_random_directions_are_unit_vectors_and_seeded():
    directions_UD = random_directions(5, D_MODEL, torch.Generator().manual_seed(0))
    torch.testing.assert_close(directions_UD.norm(dim=1), torch.ones(5))
    assert torch.equal(directions_UD, random_directions(5, D_MODEL, torch.Generator().manual_seed(0)))
    assert not torch.equal(directions_UD, random_directions(5, D_MODEL, torch.Generator().manual_seed(1)))


def test_pushes_refuse_what_does_not_exist():
    with pytest.raises(ValueError, match=r"feature 24 is not in 0\.\.23"):
        pushes({24: 1.0}, "clamp", N_FEATURES)
    with pytest.raises(ValueError, match="no activation to clamp"):
        Push(1.0, "clamp", direction_D=torch.ones(2))


@pytest.fixture(scope="module")
def lm(tiny_model_folder):
    return load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")


def test_a_prompt_is_steered_while_it_is_read_and_its_answer_feels_it_through_the_cache(lm):
    """Greedy answers with the cache are those of whole texts run anew, steered on the prompt's tokens but the last."""
    sae, prompts = (
        folded_sae(d_model=lm.d_model),
        [lm.tokenize(text, bos=True) for text in ("the ship left", "bread and butter on")],
    )
    pushed = [[Push(6.0, "add", 1)], [Push(-6.0, "add", 2)]]
    answers = lm.generate(prompts, 6, 0.0, torch.Generator(), Intervention(sae, pushed, 1e6, "prompt"))
    plain = lm.generate(prompts, 6, 0.0, torch.Generator())
    for prompt, pushes_of_row, answer, unsteered in zip(prompts, pushed, answers, plain, strict=True):
        everywhere, ids, last = Intervention(sae, [pushes_of_row], 1e6, "all"), list(prompt), len(prompt) - 1

        def edit(r_BTD, token_ids_BT, offset, everywhere=everywhere, n=last):
            return torch.cat([everywhere(r_BTD[:, :n], None, 0), r_BTD[:, n:]], dim=1)

        for token_id in answer:
            with lm.edited(edit), torch.no_grad():
                logits_V = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert int(logits_V.argmax()) == token_id
            ids.append(token_id)
        assert answer != unsteered


def test_steering_changes_the_logits_and_a_clamp_to_the_own_value_does_not(lm):
    sae = folded_sae(d_model=lm.d_model)
    ids_1T = torch.tensor([lm.tokenize("the ship", bos=True)])[:, :1]
    f_F = sae.encode(lm.residual(ids_1T)[0])[0]
    feature = int(f_F.argmax())
    silent = int((f_F == 0).nonzero()[0])
    plain = lm.model(input_ids=ids_1T).logits

    def logits(feature: int, c: float):
        with lm.edited(Intervention(sae, [[Push(c, "clamp", feature)]], FAR)):
            return lm.model(input_ids=ids_1T).logits

    torch.testing.assert_close(logits(feature, float(f_F[feature])), plain, atol=1e-4, rtol=0)
    assert torch.equal(logits(silent, 0.0), plain)
    for c in (0.0, 2 * float(f_F[feature]), -2 * float(f_F[feature])):
        assert (logits(feature, c) - plain).abs().max() > 1e-3


def test_steered_generation_with_repeats_equals_one_row_at_a_time(lm):
    sae = folded_sae(d_model=lm.d_model)
    prompts = [lm.chat("Tell me of the harbour."), lm.chat("Hi")]
    rows = [[Push(6.0, "clamp", 2)], [Push(9.0, "add", 5)]]
    together = lm.generate(prompts, 8, 0.8, [11, 12, 13], Intervention(sae, rows, FAR, repeats=[1, 2]), repeats=[1, 2])
    alone = [
        lm.generate([prompts[i]], 8, 0.8, [seed], Intervention(sae, [rows[i]], FAR))[0] for i, seed in ((0, 11), (1, 12), (1, 13))
    ]
    assert together == alone
    assert together[1] != together[2]
    assert together != lm.generate(prompts, 8, 0.8, [11, 12, 13], repeats=[1, 2])
    with pytest.raises(ValueError, match="2 seeds for 3 rows"):
        lm.generate(prompts, 8, 0.8, [1, 2], repeats=[1, 2])
