"""How well token rules describe the features of an SAE: the offline reading of interpretability that loss is held against."""

from collections.abc import Mapping

import numpy as np

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.interpret.explanation_scores import rule_scores
from sae_pipeline.interpret.rules import RuleIndex
from sae_pipeline.interpret.token_stats import TokenStats
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.survey.experiments.null_scores import feature_units


def rule_quality(
    index: RuleIndex, reader: ActivationReader, saes: Mapping[str, SparseAutoencoder], n_features: int, n_tokens: int, seed: int
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """{SAE: (mean held-out F1 of a sample's rules, the same with every rule given to another feature)}.

    Rules are fitted on at most about `n_tokens` training tokens and held to as many held-out ones.
    """
    found = {}
    for name, sae in saes.items():
        units = feature_units(sae, reader, n_features, seed, n_tokens)
        seen = index.only(units.seen)
        rows = list(rule_scores(seen, units, TokenStats(seen, units, {}).explain(units.ids.tolist()), seed))
        f1 = {
            control: [row.value for row in rows if row.metric == "rule_f1" and row.control == control and row.value is not None]
            for control in ("none", "shuffled")
        }
        found[name] = tuple(float(np.mean(values)) if values else float("nan") for values in f1.values())
    return found
