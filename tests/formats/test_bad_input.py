"""Damaged and foreign files: one sentence with file, key and mend, and nothing that runs."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_pipeline.errors import UserError
from sae_pipeline.formats.registry import read_sae
from tests.formats import makers


def refused(name: str, folder: Path, *words: str, **more) -> None:
    """Reading raises one `UserError` whose single line has all the words."""
    with pytest.raises(UserError) as caught:
        read_sae(name, folder, **more)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 600, sentence
    assert caught.value.mend.endswith(".") or caught.value.mend.endswith(")."), caught.value.mend
    for word in words:
        assert word in sentence, (word, sentence)


def change(file: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of a safetensors file."""
    found = load_file(file)
    for key, value in tensors.items():
        found.pop(key, None)
        if value is not None:
            found[key] = value.contiguous()
    save_file(found, file)


@pytest.mark.parametrize(
    ("name", "make", "weights"),
    [
        ("saelens", lambda folder: makers.saelens(folder, "standard"), "sae_weights.safetensors"),
        ("gemma_scope", makers.gemma_scope, "params.npz"),
        ("gemma_scope_2", makers.gemma_scope_2, "params.safetensors"),
        ("sparsify", makers.sparsify, "sae.safetensors"),
        ("dictionary_learning", lambda folder: makers.dictionary_learning(folder, "AutoEncoder"), "ae.pt"),
        ("openai", lambda folder: makers.openai(folder / "sae.pt"), "sae.pt"),
    ],
)
def test_truncated_and_missing_files(name, make, weights, tmp_path):
    make(tmp_path)
    makers.truncate(tmp_path / weights)
    refused(name, tmp_path, weights, "truncated", "again")
    (tmp_path / weights).write_bytes(b"")
    refused(name, tmp_path, weights, "truncated")
    (tmp_path / weights).unlink()
    if name != "openai":
        refused(name, tmp_path, weights, "is not there")
    else:
        refused(name, tmp_path, "holds 0 .pt files")
    refused(name, tmp_path / "nowhere", "is not there")


def test_wrong_shapes_name_key_and_the_other_one(tmp_path):
    makers.saelens(tmp_path, "standard")
    file = tmp_path / "sae_weights.safetensors"
    W_enc = load_file(file)["W_enc"]
    change(file, W_enc=W_enc.T)
    refused("saelens", tmp_path, "sae_weights.safetensors", "key W_enc", "(64, 20)", "transposed?")
    change(file, W_enc=W_enc, b_enc=torch.zeros(63))
    refused("saelens", tmp_path, "key b_enc", "(63,)", "F = 64")
    change(file, b_enc=torch.zeros(64, 1))
    refused("saelens", tmp_path, "key b_enc", "1 dimensions")


def test_configuration_and_weights_must_agree(tmp_path):
    makers.saelens(tmp_path, "standard")
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"d_sae": 128}))
    refused("saelens", tmp_path, "key W_enc", "its configuration says F = 128")
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"d_sae": "64"}))
    refused("saelens", tmp_path, "cfg.json", "key d_sae = '64'")
    (tmp_path / "cfg.json").write_text("{")
    refused("saelens", tmp_path, "cfg.json", "is not JSON")
    (tmp_path / "cfg.json").write_text("[1]")
    refused("saelens", tmp_path, "cfg.json", "holds a list")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bad, tmp_path):
    makers.gemma_scope_2(tmp_path)
    w_dec = load_file(tmp_path / "params.safetensors")["w_dec"]
    w_dec[3, 4] = bad
    change(tmp_path / "params.safetensors", w_dec=w_dec)
    refused("gemma_scope_2", tmp_path, "params.safetensors", "key w_dec holds 1 values", "NaN or infinite")


def test_integer_weights_are_refused(tmp_path):
    makers.sparsify(tmp_path)
    change(tmp_path / "sae.safetensors", b_dec=torch.zeros(makers.D, dtype=torch.int32))
    refused("sparsify", tmp_path, "key b_dec", "int32")


def test_unknown_and_missing_keys_are_named(tmp_path):
    makers.saelens(tmp_path, "jumprelu")
    file = tmp_path / "sae_weights.safetensors"
    change(file, W_skip=torch.zeros(makers.D, makers.D))
    refused("saelens", tmp_path, "keys that this format does not know: W_skip")
    change(file, W_skip=None, threshold=None)
    refused("saelens", tmp_path, "key threshold is missing", "It has")
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"activation_exponent": 2}))
    refused("saelens", tmp_path, "cfg.json", "activation_exponent")


def test_an_archive_with_objects_is_never_unpickled(tmp_path):
    makers.npz_with_objects(tmp_path / "params.npz")
    refused("gemma_scope", tmp_path, "params.npz", "key b_enc holds Python objects", "never loaded", "numpy.savez")


class Evil:
    """Unpickling this would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_pt_file_never_runs(how, tmp_path):
    makers.dictionary_learning(tmp_path, "AutoEncoder")
    target = tmp_path / "it ran"
    poisoned = {"encoder.weight": torch.zeros(2, 2), "bias": Evil(target)}
    if how == "torch":
        torch.save(poisoned, tmp_path / "ae.pt")
    else:
        (tmp_path / "ae.pt").write_bytes(pickle.dumps(poisoned, protocol=2))
    refused("dictionary_learning", tmp_path, "ae.pt", "never loaded", "state_dict()")
    assert not target.exists()
    pickle.loads(pickle.dumps(Evil(target)))  # the trap is a real one
    assert target.exists()


def test_a_whole_module_or_a_tensor_is_no_state_dict(tmp_path):
    makers.openai(tmp_path / "sae.pt")
    torch.save(torch.zeros(3), tmp_path / "sae.pt")
    refused("openai", tmp_path, "holds a Tensor, not a state dict")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "sae.pt")
    refused("openai", tmp_path, "never loaded")
    torch.save({"encoder.weight": 3}, tmp_path / "sae.pt")
    refused("openai", tmp_path, "key encoder.weight is a int")
    (tmp_path / "other.pt").touch()
    refused("openai", tmp_path, "holds 2 .pt files", "path of the file itself")


def test_a_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "params.npy", np.zeros(3))
    (tmp_path / "params.npy").rename(tmp_path / "params.npz")
    refused("gemma_scope", tmp_path, "single array")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transcode": True}, ("transcode: true",)),
        ({"activation": "groupmax"}, ("groupmax",)),
        ({"signed": True}, ("signed: true",)),
        ({"k": 0}, ("k = 0",)),
        ({"k": 65}, ("k = 65", "1 to 64")),
        ({"num_latents": 65}, ("F = 65",)),
    ],
)
def test_sparsify_that_cannot_be_expressed(changes, words, tmp_path):
    makers.sparsify(tmp_path, **changes)
    refused("sparsify", tmp_path, *words)


def test_skip_connections_and_transcoders(tmp_path):
    makers.sparsify(tmp_path / "a")
    change(tmp_path / "a" / "sae.safetensors", W_skip=torch.zeros(makers.D, makers.D))
    refused("sparsify", tmp_path / "a", "W_skip")
    makers.gemma_scope_2(tmp_path / "b", hf_hook_point_out="model.layers.9.post_feedforward_layernorm.output")
    refused("gemma_scope_2", tmp_path / "b", "transcoder")
    makers.gemma_scope_2(tmp_path / "c", architecture="topk")
    refused("gemma_scope_2", tmp_path / "c", "'topk'")
    makers.gemma_scope(tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3")
    refused("gemma_scope", tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3", "transcoder")


def test_saelens_that_cannot_be_expressed(tmp_path):
    makers.saelens(tmp_path, "standard", norm="expected_average_only_in")
    refused("saelens", tmp_path, "expected_average_only_in", "input_scale")
    makers.saelens(tmp_path, "standard")
    refused("saelens", tmp_path, "input_scale has no meaning", input_scale=2.0)
    makers.saelens(tmp_path, "standard", norm="covariance_whitening")
    refused("saelens", tmp_path, "covariance_whitening")
    makers.saelens(tmp_path, "standard", metadata={"hook_head_index": 3})
    refused("saelens", tmp_path, "attention heads")
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"architecture": "jumprelu_transcoder"}))
    refused("saelens", tmp_path, "transcoder")
    makers.saelens_old(tmp_path / "old", activation_fn_str="tanh-relu")
    refused("saelens", tmp_path / "old", "tanh-relu")
    makers.saelens_old(tmp_path / "tuned")
    change(tmp_path / "tuned" / "sae_weights.safetensors", scaling_factor=torch.full((makers.F,), 2.0))
    refused("saelens", tmp_path / "tuned", "key scaling_factor", "finetuning_scaling_factor")


def test_dictionary_learning_that_cannot_be_expressed(tmp_path):
    makers.dictionary_learning(tmp_path, "BatchTopKSAE")
    state = torch.load(tmp_path / "ae.pt", weights_only=True)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, tmp_path / "ae.pt")
    refused("dictionary_learning", tmp_path, "threshold = -1 was never set")
    torch.save(state | {"k": torch.tensor(7)}, tmp_path / "ae.pt")
    makers.dictionary_learning(tmp_path / "b", "AutoEncoderTopK", k=7)
    refused("dictionary_learning", tmp_path / "b", "k = 7 in the configuration, but 6 in the weights")
    makers.dictionary_learning(tmp_path / "c", "AutoEncoder", dict_class="IdentityDict")
    refused("dictionary_learning", tmp_path / "c", "IdentityDict")
    (tmp_path / "c" / "config.json").write_text("{}")
    refused("dictionary_learning", tmp_path / "c", "key trainer is missing")
    makers.openai(tmp_path / "d" / "x.pt")
    state = torch.load(tmp_path / "d" / "x.pt", weights_only=True)
    torch.save(state | {"activation_state_dict": {"k": 4, "postact_fn": "Identity"}}, tmp_path / "d" / "x.pt")
    refused("openai", tmp_path / "d", "postact_fn", "negative")


def test_unknown_format_lists_the_known_ones(tmp_path):
    refused("sae_lens", tmp_path, "'sae_lens' is no format", "saelens", "dictionary_learning")
    makers.sparsify(tmp_path)
    refused("saelens", tmp_path, "cfg.json", "key d_sae is missing", "expansion_factor")  # another format's file of the same name


def test_a_file_of_another_format_says_what_is_there(tmp_path):
    makers.gemma_scope(tmp_path)
    refused("sparsify", tmp_path, "cfg.json", "is not there", "params.npz")
