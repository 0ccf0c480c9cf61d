"""Tables of the survey's assets about single features: `features_vs_neurons`, `completeness`."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import MAX_SCORE, column, count, feature, feature_exactly_for_sae_features, one_of, size, table

_R = pa.Check.in_range(-1, 1)
_SCORE = pa.Check.in_range(0, MAX_SCORE)
_SHARE = pa.Check.in_range(0, 1)

SURVEY_UNIT_TABLES = (
    table(
        "neuron_correlations",
        "The MLP neuron (of any block up to the hook) and the residual dimension that correlate best with a unit.",
        {
            "size": size(),
            "unit": column(pl.String, "What is correlated", one_of(("sae_feature", "random_direction"))),
            "unit_id": column(pl.Int32, "Index of the unit among its kind", pa.Check.ge(0)),
            "feature": feature(nullable=True),
            "layer": column(pl.Int16, "Block of the best neuron", pa.Check.ge(0)),
            "neuron": column(pl.Int32, "Its index in the block", pa.Check.ge(0)),
            "r": column(pl.Float64, "Pearson correlation with it over all tokens", _R),
            "r_train": column(pl.Float64, "With the best neuron of train documents, on these", _R),
            "r_held_out": column(pl.Float64, "With the same neuron, on held-out documents", _R),
            "dimension": column(pl.Int32, "Best residual dimension", pa.Check.ge(0)),
            "r_dimension": column(pl.Float64, "Pearson correlation with it over all tokens", _R),
            "n_tokens": count("Tokens, train and held out"),
        },
        file="features_vs_neurons/<size>/neuron_correlations.parquet", key=("size", "unit", "unit_id"),
        checks=(feature_exactly_for_sae_features(),),
    ),
    table(
        "chosen_feature_specificity",
        "Four features that a rule chose on train tokens, and how specific they are by activation, beside a wrong explanation.",
        {
            "size": size(),
            "feature": feature(),
            "train_f1": column(pl.Float64, "F1 of the explanation's rule on train tokens, by which it was chosen", _SHARE),
            "n_windows": count("Held-out windows scored"),
            "top_decile_mean": column(pl.Float64, "Mean score of the strongest tenth", _SCORE),
            "top_decile_share_of_3": column(pl.Float64, "Share of them that score 3", _SHARE),
            "bin_correlation": column(pl.Float64, "Spearman of interval and mean score, from 3 intervals on", _R, nullable=True),
            "mean": column(pl.Float64, "Mean score of all windows", _SCORE),
            "wrong_mean": column(pl.Float64, "The same with another of the four's explanation", _SCORE),
            "wrong_top_decile_mean": column(pl.Float64, "Of the strongest tenth, with that explanation", _SCORE),
        },
        file="features_vs_neurons/<size>/chosen_feature_specificity.parquet", key=("size", "feature"),
    ),
    table(
        "feature_sensitivity",
        "How often a feature is active in held-out text that was found by its concept's words alone.",
        {
            "size": size(),
            "feature": feature(),
            "terms": column(pl.String, "Words that hold its training activations"),
            "n_texts": count("Held-out windows around a term, stored examples left out"),
            "recall": column(pl.Float64, "Share in which it is active; null for fewer than 5", _SHARE, nullable=True),
            "control_recall": column(pl.Float64, "The same with another feature's terms", _SHARE, nullable=True),
        },
        file="features_vs_neurons/<size>/feature_sensitivity.parquet", key=("size", "feature"),
    ),
    table(
        "activation_thresholds",
        "Weak activations left out below a share of their feature's training maximum: specificity gained, and error, held out.",
        {
            "size": size(),
            "share": column(pl.Float64, "The threshold, as a share of the maximum", _SHARE),
            "is_chosen": column(pl.Boolean, "Whether it is the largest that keeps to 5 % more error on train tokens"),
            "error_rise": column(pl.Float64, "Relative rise of the squared error of reconstruction"),
            "explained_variance": column(pl.Float64, "Explained variance that is left", pa.Check.le(1)),
            "specificity": column(pl.Float64, "Mean over features of their specificity above it", _SCORE, nullable=True),
            "specificity_gain": column(pl.Float64, "That minus the same features' without a threshold", nullable=True),
            "n_features": count("Scored features with a window above it"),
            "n_tokens": count("Held-out tokens of the error"),
        },
        file="features_vs_neurons/<size>/activation_thresholds.parquet", key=("size", "share"),
    ),
    table(
        "concept_presence",
        "Words of concept families: how often the corpus mentions them, and the feature that stands for each.",
        {
            "size": size(),
            "family": column(pl.String, "Family of the word"),
            "word": column(pl.String, "The word, in lower case"),
            "frequency": column(pl.Float64, "Mentions per unmasked training token", _SHARE),
            "n_mentions_train": count("Mentions in train documents"),
            "n_mentions_held_out": count("Mentions in held-out documents"),
            "feature": feature(nullable=True),
            "f1_train": column(pl.Float64, "F1 of its firing against mentions, by which it was chosen", _SHARE, nullable=True),
            "f1_held_out": column(pl.Float64, "The same on held-out documents", _SHARE, nullable=True),
            "control_f1": column(pl.Float64, "On held-out documents, chosen on shuffled mentions", _SHARE, nullable=True),
            "present": column(pl.Boolean, "Both at least 0.5; null with too few mentions to say", nullable=True),
            "control_present": column(pl.Boolean, "The same with shuffled mentions", nullable=True),
            "direction_f1": column(
                pl.Float64, "On held-out documents, of the random direction that was chosen alike", _SHARE, nullable=True
            ),
            "direction_present": column(pl.Boolean, "The same of that direction", nullable=True),
        },
        file="completeness/concept_presence.parquet", key=("size", "family", "word"),
    ),
)  # fmt: skip
