"""Tables of the stage `attribution`."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import column, count, feature, share, size, table


def _logits(description: str, nullable: bool = False) -> pa.Column:
    return column(pl.Float64, f"{description}, logits", nullable=nullable)


_PROMPT_ID = column(pl.Int32, "Number of the prompt in the committed file", pa.Check.ge(0))
_RANK = column(pl.Int32, "Rank among the prompt's pairs, 1 is the largest", pa.Check.ge(1))

ATTRIBUTION_TABLES = (
    table(
        "attribution_prompts",
        "A prompt with two next tokens. Only those that the model gets right are measured.",
        {
            "size": size(),
            "prompt_id": _PROMPT_ID,
            "family": column(pl.String, "Kind of prompt: emotion, two_hop, agreement, code, lists"),
            "prompt": column(pl.String, "The text"),
            "target": column(pl.String, "The right next token"),
            "baseline": column(pl.String, "The token that it is compared with"),
            "solved": column(pl.Boolean, "Target likelier than baseline, and among the five likeliest tokens"),
            "target_rank": column(
                pl.Int32, "Rank of the target among next tokens, 1 is the likeliest; null where a word is no single token",
                pa.Check.ge(1), nullable=True,
            ),
            "logit_difference": _logits("Target minus baseline", nullable=True),
            "n_pairs": count("Active (position, feature) pairs; null where nothing was measured, here and below", nullable=True),
            "n_ablated": count("Pairs that were switched off one by one", nullable=True),
            "attribution_correlation": column(
                pl.Float64, "Pearson correlation of attribution and effect of ablation, over the drawn pairs",
                pa.Check.in_range(-1.001, 1.001), nullable=True,
            ),
            "activation_correlation": column(
                pl.Float64, "The same of activation and effect", pa.Check.in_range(-1.001, 1.001), nullable=True
            ),
            "attribution_overlap": share("Share of the ten largest effects among the ten largest attributions", nullable=True),
            "activation_overlap": share("Share of the ten largest effects among the ten largest activations", nullable=True),
            "finite_difference_error": column(
                pl.Float64, "Norm of attribution minus central difference, over the norm of the difference", pa.Check.ge(0),
                nullable=True,
            ),
        },
        file="attribution/attribution_prompts.parquet", key=("size", "prompt_id"),
    ),
    table(
        "attribution_features",
        "The strongest pairs of a prompt: among its ten largest by attribution, by activation or by effect of ablation.",
        {
            "size": size(),
            "prompt_id": _PROMPT_ID,
            "position": column(pl.Int32, "Position of the token in the prompt", pa.Check.ge(1)),
            "feature": feature(),
            "token": column(pl.String, "Text of the token"),
            "activation": column(pl.Float64, "Feature activation", pa.Check.gt(0)),
            "attribution": _logits("Activation times the slope of the logit difference along the feature"),
            "ablation": _logits("Logit difference with the pair minus without it; null where it was not switched off", True),
            "attribution_rank": _RANK,
            "activation_rank": _RANK,
            "ablation_rank": column(pl.Int32, "Rank among the pairs that were switched off", pa.Check.ge(1), nullable=True),
        },
        file="attribution/attribution_features.parquet", key=("size", "prompt_id", "position", "feature"),
    ),
)  # fmt: skip
