"""The model card of a hub repository, generated from a study's own tables: no number in it is written by hand."""

from typing import Any

import polars as pl

from sae_pipeline.formats.compare import model_name
from sae_pipeline.formats.files import read_json
from sae_pipeline.formats.neuronpedia import hub_folder
from sae_pipeline.sae.autoencoder import CONFIG
from sae_pipeline.store import ArtifactStore
from sae_pipeline.study import HubModel
from sae_pipeline.study_pretrained import PretrainedSae

COLUMNS: dict[str, tuple[str, str]] = {
    "features": ("size", "{:,.0f}"), "architecture": ("architecture", "{}"), "L0": ("l0", "{:.1f}"),
    "explained variance": ("explained_variance", "{:.3f}"), "CE recovered vs zero": ("ce_recovered_zero", "{:.3f}"),
    "vs mean": ("ce_recovered_mean", "{:.3f}"), "ΔCE (nat)": ("delta_ce", "{:.3f}"), "KL (nat)": ("kl", "{:.3f}"),
    "alive": ("alive_fraction", "{:.1%}"), "training tokens": ("n_tokens_trained", "{:,.0f}"),
}  # fmt: skip


def model_card(store: ArtifactStore, sizes: list[int], repository: str, license: str | None = None) -> str:
    """README.md of the repository. Raises `UserError` when an SAE or its metrics are missing."""
    study = store.study
    rows = [pl.read_parquet(store.require("sae_metrics", size) / "sae_metrics.parquet").row(0, named=True) for size in sizes]
    first = rows[0]
    config = read_json(store.require("sae", sizes[0]) / CONFIG)
    table = ["| " + " | ".join(COLUMNS) + " |", "|" + "---:|" * len(COLUMNS)]
    table += ["| " + " | ".join(_cell(row[name], form) for name, form in COLUMNS.values()) + " |" for row in rows]
    how = "Imported" if isinstance(study.sae, PretrainedSae) else "Trained"
    sources = ", ".join(f"{source.label} ({source.tokens:,} tokens)" for source in study.corpus.sources)
    place = (
        f"{'the residual stream' if study.hook.site == 'residual' else 'what the MLP adds'} after block {study.hook.after_block}"
    )
    lines = [
        "---", "library_name: saelens", *([f"license: {license}"] if license else []),
        *([f"base_model: {study.model.id}"] if isinstance(study.model, HubModel) else []),
        "tags:", "- sparse-autoencoder", "- saelens", "- mechanistic-interpretability", "---", "",
        f"# Sparse autoencoders on {model_name(study)}", "",
        f"{how} by the study `{study.name}` of sae_pipeline on {place} (block 0 is the first).", "",
        "```python", "from sae_lens import SAE", "",
        f'sae = SAE.from_pretrained("{repository}", "{hub_folder(study, sizes[0])}")', "```", "",
        *(["All sizes: " + ", ".join(f"`{hub_folder(study, size)}`" for size in sizes) + ".", ""] if len(sizes) > 1 else []),
        "## Quality", "", *table, "",
        f"Held-out documents, {first['n_tokens_held_out']:,} unmasked tokens; cross-entropy and KL on "
        f"{first['n_tokens_spliced']:,} of "
        f"them, {_cell(first['ce_clean'], '{:.3f}')} nat for the untouched model. Masked tokens ({first['masked_fraction']:.1%}: "
        "position 0, special tokens, massive activations) are in none of these numbers, and the SAE was not made for them: "
        f"over all tokens explained variance is {_cell(first['explained_variance_unmasked'], '{:.3f}')}.", "",
        "## What it expects", "",
        f"* Raw activations of {place}: scaling, centring and the subtraction of `b_dec` are folded into the weights.",
        f"* {'A BOS token before every sequence' if study.corpus.bos == 'prepend' else 'No BOS token'}; contexts of "
        f"{study.corpus.context} tokens.",
        f"* Massive activations (norm above {config['threshold_norm']:.4g}) masked.", "",
        "## Text", "", f"{sources}; {study.corpus.held_out:.0%} of the documents held out.", "",
        "## Provenance", "",
        *(f"* {hub_folder(study, size)}: data version `{_version(store, size)}`" for size in sizes), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _version(store: ArtifactStore, size: int) -> str:
    manifest = store.manifest("sae", size)
    assert manifest is not None
    return manifest.data_version[:16]
