"""Names of the places in a transformer where SAEs sit, between the habits of the tools.

    ours                                    TransformerLens, SAELens         Hugging Face modules       sparsify
    {site: residual, after_block: L}        blocks.L.hook_resid_post         model.layers.L (output)    layers.L
    {site: residual, after_block: L}        blocks.{L+1}.hook_resid_pre      model.layers.{L+1} (input)
    {site: mlp_output, after_block: L}      blocks.L.hook_mlp_out            model.layers.L.mlp         layers.L.mlp

Blocks count from 0 everywhere. What enters block 0 (embeddings) is the output of no block and has no name here.
"""

import re
from typing import NamedTuple

from sae_pipeline.study_inputs import Hook


class HookNames(NamedTuple):
    """One place in three spellings."""

    transformer_lens: str
    hugging_face: str
    sparsify: str


_PATTERNS = (
    (re.compile(r"^blocks\.(\d+)\.hook_resid_post$"), "residual", 0),
    (re.compile(r"^blocks\.(\d+)\.hook_resid_pre$"), "residual", -1),
    (re.compile(r"^blocks\.(\d+)\.hook_mlp_out$"), "mlp_output", 0),
    (re.compile(r"^(?:\w+\.)*(?:layers|h)[._](\d+)(?:\.output)?$"), "residual", 0),
    (re.compile(r"^(?:\w+\.)*(?:layers|h)[._](\d+)\.input$"), "residual", -1),
    (re.compile(r"^(?:\w+\.)*(?:layers|h)[._](\d+)\.(?:mlp|feed_forward)(?:\.output)?$"), "mlp_output", 0),
)


def hook_of(name: str) -> Hook | None:
    """The study's hook for another tool's name; None for a place that a study cannot name (attention, embeddings)."""
    for pattern, site, shift in _PATTERNS:
        if found := pattern.match(name):
            after_block = int(found[1]) + shift
            return Hook(site=site, after_block=after_block) if after_block >= 0 else None  # pyright: ignore[reportArgumentType]
    return None


def names_of(hook: Hook, block_list: str = "model.layers") -> HookNames:
    """The other tools' names for a study's hook. `block_list`: the model's list of blocks (`transformer.h` in GPT-2)."""
    block, inner = hook.after_block, block_list.rpartition(".")[2]
    if hook.site == "residual":
        return HookNames(f"blocks.{block}.hook_resid_post", f"{block_list}.{block}", f"{inner}.{block}")
    return HookNames(f"blocks.{block}.hook_mlp_out", f"{block_list}.{block}.mlp", f"{inner}.{block}.mlp")
