"""The stage `features_vs_neurons`: what features follow that neurons do not, and how specific and how sensitive they are."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import torch

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.interpret.arms import scored_columns
from sae_pipeline.interpret.build_specificity import read_explanations
from sae_pipeline.interpret.embedding import SentenceEmbedder
from sae_pipeline.interpret.protocols import UnitKind
from sae_pipeline.interpret.proxy import METHOD, Calibration, ProxyScorer
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.token_stats import METHOD as TOKEN_STATS
from sae_pipeline.interpret.tokens import TokenTable
from sae_pipeline.interpret.units import sae_features
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.plots.correlations import neuron_correlations
from sae_pipeline.plots.figure import write_figure
from sae_pipeline.plots.thresholds import activation_thresholds
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import Outcome
from sae_pipeline.study import Score
from sae_pipeline.study_survey import FeaturesVsNeurons
from sae_pipeline.survey.features_vs_neurons.chosen import (
    choose_clear,
    chosen_measurements,
    chosen_rows,
    clear_candidates,
    null_measurements,
    score_chosen,
)
from sae_pipeline.survey.features_vs_neurons.clear_nulls import explained, null_units
from sae_pipeline.survey.features_vs_neurons.correlate import active_pairs, correlate, correlation_rows, some_blocks
from sae_pipeline.survey.features_vs_neurons.sensitivity import sensitivity, sensitivity_rows
from sae_pipeline.survey.features_vs_neurons.shares import correlation_shares
from sae_pipeline.survey.features_vs_neurons.threshold_curve import threshold_curve
from sae_pipeline.survey.features_vs_neurons.thresholding import FIGURE, largest_share, specificity_gain, weighted_windows
from sae_pipeline.survey.invariants.space import some_tokens
from sae_pipeline.survey.measurement import Measurement, write_measurements
from sae_pipeline.survey.parts import kept
from sae_pipeline.tables.columns import SPLITS

CORRELATIONS = "neuron_correlations.parquet"
KINDS: dict[UnitKind, str] = {"random_direction": "random_directions", "mlp_neuron": "neurons"}  # as measurements call them


def build_features_vs_neurons(
    folders: dict[str, Path], lm: LanguageModel, score: Score, settings: FeaturesVsNeurons, size: int, work: Path,
    embedder: SentenceEmbedder | None = None,
) -> Outcome:  # fmt: skip
    """Write four tables, two figures and `measurements.parquet`. `folders`: the artefacts of this size by stage.

    A build that was killed keeps the table of correlations, which is most of the work.
    """
    corpus, reader = CorpusReader.open(folders["corpus"]), ActivationReader.open(folders["activations"], lm)
    sae = SparseAutoencoder.load(folders["sae"], lm.device)
    features = pl.read_parquet(folders["feature_stats"] / "features.parquet")
    n_chosen = min(settings.n_features, features.filter("alive").height)
    correlations = kept(work / CORRELATIONS, lambda: _correlations(corpus, reader, lm, sae, features, settings, size))
    write_figure(work, "neuron_correlations", lambda theme: neuron_correlations(correlations, theme))

    maximum_F = torch.from_numpy(features.sort("feature")["max_activation"].to_numpy().astype(np.float32))
    train_ND, held_out_ND = (
        reader.gather(some_tokens(reader, split, settings.n_error_tokens, settings.seed)) for split in SPLITS
    )
    windows = weighted_windows(
        _believed_scores(folders["specificity_scores"]),
        pl.read_parquet(folders["feature_stats"] / "feature_intervals.parquet").filter(split="held_out"), maximum_F,
    )  # fmt: skip
    share = largest_share(sae.to("cpu"), train_ND, maximum_F)
    curve = threshold_curve(sae, held_out_ND, maximum_F, windows, share, size)
    curve.write_parquet(work / "activation_thresholds.parquet")
    write_figure(work, FIGURE, lambda theme: activation_thresholds(curve, theme))
    gain = specificity_gain(windows, share, curve.filter("is_chosen")["error_rise"][0], size, settings.seed)
    measured = [
        *correlation_shares(correlations, size, n_chosen, settings.seed), gain,
        *_interpretation(folders, corpus, reader, score, settings, size, work, embedder),
    ]  # fmt: skip
    write_measurements(work, "features_vs_neurons", measured)
    return Outcome({one.measurement: one.value for one in measured} | {"n_tokens": settings.n_tokens})


def _correlations(
    corpus: CorpusReader, reader: ActivationReader, lm: LanguageModel, sae: SparseAutoencoder, features: pl.DataFrame,
    settings: FeaturesVsNeurons, size: int,
) -> pl.DataFrame:  # fmt: skip
    alive = features.filter("alive")["feature"].sort().to_numpy()
    n = min(settings.n_features, len(alive))
    chosen = np.sort(np.random.default_rng(settings.seed).choice(alive, n, replace=False))
    blocks = {split: some_blocks(reader, split, settings.n_tokens // 2, settings.seed) for split in SPLITS}
    pairs = active_pairs(reader, sae, blocks, chosen, settings.n_directions, settings.seed)
    halves, widths = correlate(corpus, reader, lm, pairs, len(chosen) + settings.n_directions)
    return correlation_rows(halves, widths, chosen, size)


def _interpretation(
    folders: dict[str, Path], corpus: CorpusReader, reader: ActivationReader, score: Score, settings: FeaturesVsNeurons,
    size: int, work: Path, embedder: SentenceEmbedder | None,
) -> list[Measurement]:  # fmt: skip
    """Rows 18 and 24: what the explanations of the main run are worth on windows of their own."""
    tokens = TokenTable.of(corpus, reader)
    index, units = RuleIndex(tokens), sae_features(folders["feature_stats"])
    known = read_explanations(folders["explanations"], TOKEN_STATS)
    facts = json.loads((folders["specificity_scores"] / "calibration.json").read_text(encoding="utf-8"))
    scorer = ProxyScorer(index, embedder or SentenceEmbedder(), Calibration(**facts))
    by_column = {column: known["sae_feature", column] for column in units.explained.tolist() if ("sae_feature", column) in known}
    candidates = clear_candidates(units, by_column, settings.seed)
    f1 = choose_clear(index, units, by_column, candidates)
    scored = score_chosen(scorer, index, units, by_column, list(f1), settings.n_windows, settings.seed)
    chosen_rows(scored, f1, size).write_parquet(work / "chosen_feature_specificity.parquet")
    nulls = {null.unit: null for null in null_units(reader, units.train.count_U[candidates], settings.seed)} if candidates else {}
    beside: list[Measurement] = []
    for unit, kind in KINDS.items():
        looked_at, n_candidates = {}, 0
        if null := nulls.get(unit):
            rules, n_candidates = explained(index, null), len(null.ids)
            clear = choose_clear(index, null, rules, [column for column, each in rules.items() if each.rule is not None])
            looked_at = score_chosen(scorer, index, null, rules, list(clear), settings.n_windows, settings.seed)
        beside += null_measurements(scored, looked_at, kind, n_candidates, size, settings.seed)
    columns = scored_columns(units, score)
    rows = sensitivity_rows(tokens, units, columns, _shown(folders["feature_stats"], columns), size, settings.seed)
    rows.write_parquet(work / "feature_sensitivity.parquet")
    return [*chosen_measurements(scored, size, settings.seed), *beside, *sensitivity(rows, len(columns), size, settings.seed)]


def _shown(feature_stats: Path, columns: list[int]) -> dict[int, np.ndarray]:
    """Tokens of each feature's stored held-out examples."""
    examples = (
        pl.scan_parquet(feature_stats / "feature_examples.parquet")
        .filter(pl.col("split") == "held_out", pl.col("feature").is_in(columns))
        .select("feature", "token_index")
        .collect()
    )
    return {int(str(feature)): mine["token_index"].to_numpy() for (feature,), mine in examples.group_by("feature")}


def _believed_scores(folder: Path) -> pl.DataFrame:
    """Scores of active windows with their own explanation: a judge's where it passed its calibration, else the proxy's."""
    scores = pl.read_parquet(folder / "specificity_scores.parquet").filter(
        pl.col("unit") == "sae_feature", pl.col("control") == "none", pl.col("kind").is_in(["active", "close_look"]),
        pl.col("status") == "ok",
    )  # fmt: skip
    judged = pl.read_parquet(folder / "judge_calibration.parquet").filter("passed").height > 0
    mine = scores.filter(pl.col("method") != METHOD if judged else pl.col("method") == METHOD)
    return mine.select("feature", "interval", "activation", "score")
