"""`sae-pipeline attribute`: which features decide between two next tokens, by gradient and by switching them off."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sae_pipeline.api import OpenStudy
from sae_pipeline.attribution.ablation import ablation_effects
from sae_pipeline.attribution.attribute import Attributed, attribute
from sae_pipeline.attribution.contrast import contrast
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.study import Study


def attribute_in_terminal(
    study: Study, data_root: Path | str, size: int, prompt: str, target: str, baseline: str, top: int, device: str,
    console: Console | None = None,
) -> Attributed:  # fmt: skip
    """Print the `top` pairs of largest attribution with their effects of ablation; returns the attribution.

    Raises `UserError` for an unknown size, a target that is not one token, an empty prompt.
    """
    console = console or Console()
    opened = OpenStudy(study, data_root, device)
    if size not in study.sae.sizes:
        raise UserError("--size", f"this study has no SAE of {size} features", f"Its sizes are {study.sae.sizes}.")
    sae = opened.sae(size)
    # In bfloat16 logits have steps of about 0.1.
    lm = load_language_model(study.model, study.hook, device, "float32")
    found = attribute(lm, sae, contrast(lm, prompt, target, baseline, study.corpus.bos == "prepend"))
    pairs = found.attribution_P.abs().argsort(descending=True, stable=True)[:top]
    effects = ablation_effects(lm, sae, found, pairs)
    explanations = opened.explanations(size)
    console.print(Text(f"logit({target!r}) - logit({baseline!r}) = {found.logit_difference:+.3f}"))
    console.print(f"the target is the {_ordinal(found.target_rank)} likeliest next token")
    table = Table(box=None, pad_edge=False)
    for title, justify in (
        ("token", "left"), ("feature", "right"), ("activation", "right"), ("attribution", "right"), ("ablation", "right"),
        ("explanation", "left"),
    ):  # fmt: skip
        table.add_column(title, justify=justify)  # pyright: ignore[reportArgumentType]
    for pair, effect in zip(pairs.tolist(), effects.tolist(), strict=True):
        position, feature = int(found.position_P[pair]), int(found.feature_P[pair])
        token = lm.tokens.texts[found.contrast.token_ids[position]]
        table.add_row(
            Text(repr(token)), str(feature), f"{float(found.activation_P[pair]):.2f}", f"{float(found.attribution_P[pair]):+.3f}",
            f"{effect:+.3f}", Text(explanations.get(feature, "")),
        )  # fmt: skip
    console.print(table)
    everything = float(torch.sum(found.attribution_P))
    console.print(f"{len(found.attribution_P):,} active pairs; their attributions sum to {everything:+.3f}", highlight=False)
    return found


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n:,}{ending}"
