"""The cache with room gives what the library's cache gives, and leaves alone what is no plain cache."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from sae_pipeline.language_model.roomy_cache import RoomyLayer, make_room


def states(n_tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 3, n_tokens, 4, generator=generator) for _ in range(2))  # pyright: ignore[reportReturnType]


def filled(layer: DynamicLayer) -> DynamicCache:
    cache = DynamicCache()
    layer.update(*states(5, 0))
    cache.layers = [layer]  # pyright: ignore[reportAttributeAccessIssue]
    return cache


def test_it_holds_what_the_librarys_cache_holds():
    theirs, ours = filled(DynamicLayer()), filled(DynamicLayer())
    make_room(ours, 3)
    assert isinstance(ours.layers[0], RoomyLayer)
    for n_tokens, seed in ((1, 1), (2, 2)):
        for one, other in zip(ours.update(*states(n_tokens, seed), 0), theirs.update(*states(n_tokens, seed), 0), strict=True):
            assert torch.equal(one, other)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(1, 0) == theirs.get_mask_sizes(1, 0)
    with pytest.raises(IndexError, match="room for 8 tokens, 9 came"):
        ours.update(*states(1, 3), 0)


def test_new_tokens_move_nothing():
    cache = filled(DynamicLayer())
    make_room(cache, 2)
    places = {cache.update(*states(1, seed), 0)[0].data_ptr() for seed in (1, 2)}
    assert len(places) == 1


def test_windows_and_empty_layers_stay_as_they_are():
    window = DynamicSlidingWindowLayer(sliding_window=4)
    cache = filled(window)
    cache.layers.append(DynamicLayer())
    make_room(cache, 3)
    assert cache.layers[0] is window and type(cache.layers[1]) is DynamicLayer
    make_room(object(), 3)  # a state of another kind
