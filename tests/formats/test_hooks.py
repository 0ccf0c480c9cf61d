"""Hook names in three spellings, and a real forward pass that proves the count of blocks."""

import pytest
import torch

from sae_pipeline.formats.hooks import hook_of, names_of
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.study import Hook
from sae_pipeline.study_inputs import FolderModel
from tests.tiny_models import save_tiny_gpt2, save_tiny_llama

KNOWN = {
    "blocks.3.hook_resid_post": ("residual", 3), "blocks.4.hook_resid_pre": ("residual", 3),
    "blocks.3.hook_mlp_out": ("mlp_output", 3), "model.layers.3": ("residual", 3), "model.layers.3.output": ("residual", 3),
    "model.layers.4.input": ("residual", 3), "layers.3": ("residual", 3), "layers_3": ("residual", 3), "h.3": ("residual", 3),
    "transformer.h.3": ("residual", 3), "gpt_neox.layers.3": ("residual", 3), "layers.3.mlp": ("mlp_output", 3),
    "model.layers.12.mlp.output": ("mlp_output", 12),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_names_are_read(name):
    site, after_block = KNOWN[name]
    assert hook_of(name) == Hook.model_validate({"site": site, "after_block": after_block})


@pytest.mark.parametrize(
    "name", ["blocks.0.hook_resid_pre", "hook_embed", "blocks.3.attn.hook_z", "blocks.3.hook_resid_mid", "embed_tokens",
             "model.layers.3.self_attn.o_proj.input", "xblocks.3.hook_resid_post", ""],
)  # fmt: skip
def test_places_without_a_name_here_are_not_guessed(name):
    assert hook_of(name) is None


@pytest.mark.parametrize("site", ["residual", "mlp_output"])
@pytest.mark.parametrize("block_list", ["model.layers", "transformer.h", "gpt_neox.layers"])
def test_every_spelling_leads_back(site, block_list):
    hook = Hook(site=site, after_block=7)
    for name in names_of(hook, block_list):
        assert hook_of(name) == hook, name


@pytest.mark.parametrize("save", [save_tiny_llama, save_tiny_gpt2])
@pytest.mark.parametrize("name", ["blocks.1.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"])
def test_a_real_forward_pass_shows_no_off_by_one(save, name, tmp_path):
    """What the names mean, taken from the model itself by the library's own numbering of hidden states and modules.

    `hidden_states[0]` are the embeddings, so `hidden_states[L]` enters block L and `hidden_states[L + 1]` leaves it.
    """
    folder = save(tmp_path / "model")
    hook = hook_of(name)
    assert hook is not None
    lm = load_language_model(FolderModel(source="folder", path=str(folder), dtype="float32"), hook, "cpu")
    ids_BT = torch.tensor([[0, 7, 23, 5, 61, 9]])
    blocks = lm.model.get_submodule(lm.anatomy.path)
    caught: list[torch.Tensor] = []
    handle = blocks[1].mlp.register_forward_hook(lambda module, args, output: caught.append(output))
    with torch.no_grad():
        states = lm.model(input_ids=ids_BT, output_hidden_states=True).hidden_states
    handle.remove()
    expected = {"hook_resid_post": states[2], "hook_resid_pre": states[1], "hook_mlp_out": caught[0]}[name.rpartition(".")[2]]
    found = lm.residual(ids_BT)
    torch.testing.assert_close(found, expected)
    others = [state for state in states if state.shape == expected.shape and state is not expected]
    assert all(not torch.allclose(found, other) for other in others)  # neighbours are told apart
    assert names_of(hook, lm.anatomy.path).hugging_face.startswith(f"{lm.anatomy.path}.{hook.after_block}")
