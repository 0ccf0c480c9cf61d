"""Tables of the steering comparison: every method on every concept, and every text that was written for it."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import CONTROLS, HALVES, STEERING_MODES, column, count, feature, one_of, share, size, table

_METHOD = column(pl.String, "Way of steering; baseline: unsteered, prompt_only: asked for in words")
_FACTOR = column(
    pl.Float64, "Strength as a multiple of the chosen feature's training maximum; null: nothing is steered", nullable=True
)
_FEATURE = feature(nullable=True)

SURVEY_STEERING_TABLES = (
    table(
        "steering_methods",
        "One way of steering towards one concept, at the factor that the choosing prompts chose; from the reporting prompts.",
        {
            "size": size(),
            "concept": column(pl.String, "Name in the file of concepts"),
            "method": _METHOD,
            "feature": _FEATURE,
            "factor": _FACTOR,
            "n": count("Texts"),
            "hit_rate": share("Smoothed share of texts that name the concept: (hits + 0.5) / (n + 1)"),
            "fluent_rate": share("The same of fluent texts"),
            "relevant_rate": share("The same of texts as close to their prompt as three quarters of unsteered ones"),
            "score": share("Harmonic mean of the three"),
        },
        file="steering_comparison/steering_methods.parquet", key=("size", "concept", "method"),
    ),
    table(
        "steering_costs",
        "What clamping one feature of the comparison, or a random one, costs at one factor; negative factors included.",
        {
            "size": size(),
            "feature": feature(),
            "control": column(pl.String, "none: stands for a concept; random_feature: a random living one", one_of(CONTROLS)),
            "factor": column(pl.Float64, "Multiple of the feature's training maximum"),
            "accuracy": share("Share of all multiple-choice questions whose right answer is the likeliest"),
            "accuracy_first": share("The same of the 24 questions on which row 33 was measured at first"),
            "answer_nats": column(pl.Float64, "Fall of the log-probability per token of the right answers, mean over questions"),
            "extra_nats": column(pl.Float64, "Cross-entropy of held-out tokens minus that without a clamp"),
        },
        file="steering_comparison/steering_costs.parquet", key=("size", "control", "feature", "factor"),
    ),
    table(
        "steering_doses",
        "One dose of a feature, a random feature or a random direction, read along texts without generating.",
        {
            "size": size(),
            "concept": column(pl.String, "Whose words are asked for"),
            "control": column(pl.String, "none: its feature; the others: the best of as many", one_of(CONTROLS)),
            "feature": _FEATURE,
            "factor": column(pl.Float64, "Multiple of the training maximum; of a direction: of its concept's feature's"),
            "rise": column(pl.Float64, "Rise of the probability that the next token says the concept, mean over the texts"),
            "extra_nats": column(pl.Float64, "Cross-entropy of the texts' tokens minus that without steering, nats per token"),
        },
        file="steering_comparison/steering_doses.parquet", key=("size", "concept", "control", "factor"),
    ),
    table(
        "steering_effects",
        "What steering towards one concept does to the words of another: an entry of the off-target matrix.",
        {
            "size": size(),
            "method": _METHOD,
            "concept": column(pl.String, "Steered towards"),
            "looked_for": column(pl.String, "Whose words are counted"),
            "effect": column(pl.Float64, "Share of texts that name it, minus that of unsteered ones", pa.Check.in_range(-1, 1)),
        },
        file="steering_comparison/steering_effects.parquet", key=("size", "method", "concept", "looked_for"),
    ),
    table(
        "comparison_texts",
        "One text of the steering comparison.",
        {
            "size": size(),
            "concept": column(pl.String, "What is steered towards; null: unsteered", nullable=True),
            "method": _METHOD,
            "mode": column(pl.String, "clamp, add or none", one_of(STEERING_MODES)),
            "feature": _FEATURE,
            "factor": _FACTOR,
            "half": column(pl.String, "choose: prompts that pick the factor; report: those reported on", one_of(HALVES)),
            "prompt_id": column(pl.Int16, "Prompt, from 0", pa.Check.ge(0)),
            "sample": column(pl.Int16, "Sample of this prompt, from 0", pa.Check.ge(0)),
            "prompt": column(pl.String, "The prompt"),
            "completion": column(pl.String, "What the model wrote"),
            "n_tokens": column(pl.Int32, "Generated tokens", pa.Check.ge(0)),
            "cross_entropy": column(pl.Float64, "Nats per token under the unsteered model", nullable=True),
            "repetition": share("Share of repeated 4-grams"),
            "hit": column(pl.Boolean, "Whether it names the concept; null: unsteered", nullable=True),
            "fluent": column(pl.Boolean, "Cross-entropy within 1 nat and repetition within 0.1 of unsteered texts"),
            "relevant": column(pl.Boolean, "Embedding as close to the prompt's as that of three quarters of unsteered texts"),
        },
        file="steering_comparison/comparison_texts.parquet",
        key=("size", "concept", "method", "factor", "half", "prompt_id", "sample"),
    ),
)  # fmt: skip
