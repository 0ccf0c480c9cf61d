"""SAEs by hub id: the client's own cache stands in for the network."""

from pathlib import Path

import pytest
import torch

from sae_pipeline.errors import UserError
from sae_pipeline.formats.export import largest_difference
from sae_pipeline.formats.registry import read_sae
from tests.formats import makers

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """The files of a cached repository `me/saes`; offline, as all tests are."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    root = tmp_path / "models--me--saes"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    files = root / "snapshots" / COMMIT
    files.mkdir(parents=True)
    return files


def test_a_folder_of_a_repository(repository):
    makers.saelens(repository / "blocks.1.hook_resid_post" / "width_64", "topk")
    within = "blocks.1.hook_resid_post/width_64"
    raw = read_sae("saelens", repository="me/saes", within=within)
    assert largest_difference(raw, read_sae("saelens", repository / within)) == 0
    assert raw.origin.where == f"me/saes@{COMMIT[:12]}/{within}"  # the commit that was read is on record
    assert read_sae("saelens", repository="me/saes", within=within, revision=COMMIT).n_features == 64


def test_a_run_level_configuration_comes_along(repository):
    makers.sparsify(repository / "layers.10")
    (repository / "config.json").write_text('{"model": "meta-llama/Meta-Llama-3-8B", "ctx_len": 2048}')
    assert read_sae("sparsify", repository="me/saes", within="layers.10").origin.model == "meta-llama/Meta-Llama-3-8B"


def test_a_file_of_a_repository(repository):
    forward = makers.openai(repository / "v5" / "layer_8.pt")
    makers.openai(repository / "v5" / "layer_9.pt", "ReLU")
    raw = read_sae("openai", repository="me/saes", within="v5/layer_8.pt")
    f, _ = raw.forward(torch.from_numpy(makers.activations()))
    torch.testing.assert_close(f, torch.from_numpy(forward(makers.activations())[0]), atol=1e-4, rtol=1e-4)


def test_names_in_the_place_say_model_and_hook(repository, tmp_path):
    (tmp_path / "models--me--saes").rename(tmp_path / "models--google--gemma-scope-2b-pt-res")
    place = tmp_path / "models--google--gemma-scope-2b-pt-res" / "snapshots" / COMMIT / "layer_12" / "width_16k"
    makers.gemma_scope(place)
    origin = read_sae("gemma_scope", repository="google/gemma-scope-2b-pt-res", within="layer_12/width_16k").origin
    assert (origin.model, origin.hook) == ("google/gemma-2-2b", "blocks.12.hook_resid_post")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"repository": "me/nothing"}, ("me/nothing", "cannot be fetched", "path")),
        ({"repository": "me/saes", "within": "layer_99"}, ("me/saes", "none of the files")),
        ({"repository": "me/saes", "revision": "f" * 40}, ("me/saes", "cannot be fetched")),
        ({"repository": "not a repository"}, ("not a repository",)),
        ({"repository": "me/saes", "path": "here"}, ("one of them",)),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(repository, arguments, words):
    with pytest.raises(UserError) as caught:
        read_sae("saelens", **arguments)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)
