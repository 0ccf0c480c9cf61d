"""Find the decoder blocks of any causal language model, and build views of it that run only some of them.

A *view* shares every parameter with the model: modules on the way from the root to the block list are copied shallowly, the
list itself is replaced. Nothing is patched in the model, so its own forward stays what it was.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sae_pipeline.errors import UserError

MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
DOWN_NAMES = ("down_proj", "c_proj", "dense_4h_to_h", "fc_out", "fc2", "w2", "wo", "out_proj")
NORM_NAMES = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "norm_f", "final_norm")


@dataclass(frozen=True)
class Anatomy:
    """Where things are in a model."""

    path: str  # dotted name of the block list, such as `model.layers`
    blocks: nn.ModuleList
    final_norm: Any
    head: Any


def find_anatomy(model: Any, n_blocks: int) -> Anatomy:
    """Blocks, final norm and head. Raises `UserError` that names what was looked for and what was there."""
    architecture = type(model).__name__
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    fitting = [(name, module) for name, module in lists if len(module) == n_blocks and not _inside_another(name, lists)]
    if len(fitting) != 1:
        seen = ", ".join(f"{name} ({len(module)})" for name, module in lists[:6]) or "none"
        raise UserError(
            "model",
            f"{architecture} is an unknown architecture: looked for one list of {n_blocks} decoder blocks, found lists: {seen}",
            "Use a decoder-only model whose blocks are one torch ModuleList of num_hidden_layers entries.",
        )  # fmt: skip
    path, blocks = fitting[0]
    parent = model.get_submodule(path.rpartition(".")[0])
    norm = next((getattr(parent, name) for name in NORM_NAMES if isinstance(getattr(parent, name, None), nn.Module)), None)
    if norm is None:
        raise UserError(
            "model", f"{architecture}: looked for the final norm beside {path} ({', '.join(NORM_NAMES)}), found none of them",
            "Use a model with a final norm.",
        )  # fmt: skip
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(
            "model", f"{architecture} has no output embeddings (looked for get_output_embeddings())", "Use a causal model."
        )
    return Anatomy(path, blocks, norm, head)


def _inside_another(name: str, lists: list[tuple[str, nn.ModuleList]]) -> bool:
    return any(name.startswith(other + ".") for other, _ in lists)


def find_mlp(block: nn.Module) -> nn.Module:
    """The block's MLP. Raises `UserError` when it has none under a known name."""
    for name in MLP_NAMES:
        if isinstance(getattr(block, name, None), nn.Module):
            return getattr(block, name)
    raise UserError(
        "hook.site", f"{type(block).__name__} has no MLP module (looked for {', '.join(MLP_NAMES)})", "Use site: residual."
    )


def find_down_projection(block: nn.Module) -> nn.Module:
    """The MLP's last matrix; its input is what is called neurons. Raises `UserError` when there is none."""
    places = [getattr(block, name) for name in MLP_NAMES if isinstance(getattr(block, name, None), nn.Module)] or [block]
    for name in DOWN_NAMES:
        if isinstance(getattr(places[0], name, None), nn.Module):
            return getattr(places[0], name)
    raise UserError(
        "activations.n_neurons", f"{type(block).__name__} has no down projection (looked for {', '.join(DOWN_NAMES)})",
        "Set n_neurons: 0; the neuron control is then left out.",
    )  # fmt: skip


def truncated(model: Any, anatomy: Anatomy, last: int) -> Any:
    """A view whose last block is `last`, without the head."""
    view = _with_blocks(model, anatomy.path, list(anatomy.blocks)[: last + 1])
    return getattr(view, model.base_model_prefix, view)


def resumed(model: Any, anatomy: Anatomy, last: int, stream: Callable[[], Tensor], as_tuple: bool) -> Any:
    """A view, with head, in which blocks 0..`last` do nothing and block `last` puts out `stream()`.

    The list keeps its length, because some architectures choose a block's mask by its place in the list.
    """

    def pass_on(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if as_tuple else hidden

    def put_out(*args: Any, **kwargs: Any) -> Any:
        return (stream(),) if as_tuple else stream()

    skipped = [_without_hooks(block, put_out if i == last else pass_on) for i, block in enumerate(anatomy.blocks) if i <= last]
    return _with_blocks(model, anatomy.path, [*skipped, *list(anatomy.blocks)[last + 1 :]])


def _without_hooks(block: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """A copy of a block that keeps its attributes (models read `attention_type` there) but computes `forward`."""
    twin = copy.copy(block)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"):
        setattr(twin, name, OrderedDict())
    twin.forward = forward
    return twin


def _with_blocks(model: nn.Module, path: str, blocks: list[nn.Module]) -> nn.Module:
    root = _shallow(model)
    place = root
    *parents, name = path.split(".")
    for parent in parents:
        place._modules[parent] = _shallow(place._modules[parent])
        place = place._modules[parent]
    place._modules[name] = nn.ModuleList(blocks)
    return root


def _shallow(module: Any) -> Any:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def stream_of(output: Any) -> Tensor:
    """The residual stream in a block's output, which is a tensor or a tuple that starts with it."""
    return output[0] if isinstance(output, tuple) else output


def with_stream(output: Any, stream: Tensor) -> Any:
    """The same output with another residual stream."""
    return (stream, *output[1:]) if isinstance(output, tuple) else stream


@torch.no_grad()
def unembedding(anatomy: Anatomy) -> Tensor:
    """W_U with the final norm's gain (and centring, for a LayerNorm) folded in, D x V float32.

    The gain is measured, not read: architectures store it as g, as 1 + g, or not at all.
    """
    norm = copy.deepcopy(anatomy.final_norm).float().cpu()
    W_VD: Tensor = anatomy.head.weight.detach().float()
    d_model = W_VD.shape[1]
    probe_D = torch.linspace(1, 2, d_model, dtype=torch.float64)
    probe_D[::2] *= -1
    probe_D = ((probe_D - probe_D.mean()) / probe_D.std(correction=0)).float()
    at_probe_D = norm(probe_D[None])[0]
    gain_D = (at_probe_D - norm(-probe_D[None])[0]) / (2 * probe_D)
    W_DV = (W_VD * gain_D.to(W_VD.device)).T
    centres = torch.allclose(norm(probe_D[None] + 1.0)[0], at_probe_D, atol=1e-3)
    return W_DV - W_DV.mean(0, keepdim=True) if centres else W_DV


def context_limit(config: Any) -> int | None:
    """Most tokens that the model can read at once; None when it has no such bound."""
    limit = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None
