"""Builder of the `sae_metrics` stage: one SAE on held-out tokens, as a whole and by corpus source.

Shapes: N tokens, D width.
"""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sae_pipeline import progress
from sae_pipeline.activations.reader import KEEP
from sae_pipeline.sae.documents import DocumentSums, held_out_means
from sae_pipeline.sae.metrics import Activity, Reconstruction
from sae_pipeline.sae.splice import splice
from sae_pipeline.store import Outcome

if TYPE_CHECKING:
    from sae_pipeline.activations.reader import ActivationReader
    from sae_pipeline.corpus.reader import CorpusReader
    from sae_pipeline.language_model.model import LanguageModel
    from sae_pipeline.sae.autoencoder import SparseAutoencoder

BATCH_TOKENS = 4096


def build_sae_metrics(
    corpus: "CorpusReader", activations: "ActivationReader", sae: "SparseAutoencoder", language_model: "LanguageModel", work: Path
) -> Outcome:
    """Write `sae_metrics.parquet` (one row) and its parts `sae_metrics_by_source.parquet`, `_by_document.parquet` into `work`."""
    source_O = np.asarray(corpus.source_of_doc)
    documents = DocumentSums(held_out_means(corpus, activations, sae, BATCH_TOKENS), source_O)
    reconstruction, activity, by_source = measure_held_out(corpus, activations, sae, documents)
    everything = Reconstruction(sae.d_model)
    everything.merge(reconstruction)
    everything.merge(measure_masked(activations, sae))
    spliced = splice(corpus, activations, sae.reconstruct, language_model, str(sae.n_features))
    row = {
        "size": sae.n_features, "n_features": sae.n_features, "architecture": sae.config["architecture"], "l0": activity.l0(),
        "explained_variance": reconstruction.explained_variance(),
        "explained_variance_unmasked": everything.explained_variance(),
        "explained_variance_standardized": reconstruction.explained_variance_standardized(), "mse": reconstruction.mse(),
        "alive_fraction": activity.alive_fraction(), "dead_fraction": 1 - activity.alive_fraction(),
        "masked_fraction": 1 - reconstruction.n_tokens / everything.n_tokens,
        "n_tokens_trained": sae.config["n_tokens_trained"], "n_tokens_held_out": reconstruction.n_tokens, **spliced.columns(),
    }  # fmt: skip
    sources = [
        {
            "size": sae.n_features, "source": source, "n_tokens": part.n_tokens, "l0": active.l0(),
            "explained_variance": part.explained_variance(),
        }
        for source, (part, active) in sorted(by_source.items())
    ]  # fmt: skip
    integers = {"size": pl.Int32, "n_features": pl.Int32, "n_tokens_trained": pl.Int64}
    decimals = {
        name: pl.Float64 for name, value in row.items() if name not in integers and (value is None or isinstance(value, float))
    }
    pl.DataFrame([row], schema_overrides=integers | decimals).write_parquet(work / "sae_metrics.parquet")
    pl.DataFrame(sources, schema_overrides={"size": pl.Int32}).write_parquet(work / "sae_metrics_by_source.parquet")
    documents.table(sae.n_features, spliced.tokens).write_parquet(work / "sae_metrics_by_document.parquet")
    return Outcome(metadata=row)


def measure_held_out(
    corpus: "CorpusReader", activations: "ActivationReader", sae: "SparseAutoencoder", documents: DocumentSums | None = None
) -> tuple[Reconstruction, Activity, dict[str, tuple[Reconstruction, Activity]]]:
    """(reconstruction, activity, the same by source) over all unmasked held-out tokens, in one pass that `documents` joins."""
    parts: dict[str, tuple[Reconstruction, Activity]] = defaultdict(
        lambda: (Reconstruction(sae.d_model), Activity(sae.n_features))
    )
    document_N = corpus.doc_ids_BT.reshape(-1)
    source_N = corpus.source_of_doc[document_N]
    for index_N, r_ND in progress.track(
        activations.stream("held_out", BATCH_TOKENS), f"held-out tokens/{sae.n_features}",
        total=-(-len(activations.token_index("held_out")) // BATCH_TOKENS), unit="batches",
    ):  # fmt: skip
        codes = sae.encode_sparse(r_ND)
        x_ND, x_hat_ND = sae.scaled(r_ND), sae.scaled(sae.decode_sparse(codes))
        token_P = codes.token.cpu().numpy()
        n_active_N = np.bincount(token_P, minlength=len(r_ND))
        here_N = source_N[index_N.numpy()]
        for source in np.unique(here_N):
            of_source_N = here_N == source
            part, active = parts[str(source)]
            part.add(x_ND[of_source_N], x_hat_ND[of_source_N])
            active.add(int(of_source_N.sum()), codes.feature[of_source_N[token_P]])
            if documents is not None:
                given = (x_ND[of_source_N], x_hat_ND[of_source_N], n_active_N[of_source_N])
                documents.add(document_N[index_N.numpy()[of_source_N]], str(source), *given)
    reconstruction, activity = Reconstruction(sae.d_model), Activity(sae.n_features)
    for _, (part, active) in sorted(parts.items()):
        reconstruction.merge(part)
        activity.merge(active)
    return reconstruction, activity, dict(parts)


def measure_masked(activations: "ActivationReader", sae: "SparseAutoencoder") -> Reconstruction:
    """Reconstruction of the masked held-out tokens, position 0 and massive activations among them."""
    index_N = activations.token_index("held_out", masked=True)
    index_N = index_N[activations.reason_BT.flatten()[index_N] != KEEP]
    masked = Reconstruction(sae.d_model)
    for part_N in index_N.split(BATCH_TOKENS):
        r_ND = activations.gather(part_N)
        masked.add(sae.scaled(r_ND), sae.scaled(sae.reconstruct(r_ND)))
    return masked
