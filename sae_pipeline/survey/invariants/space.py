"""Checklist rows 1, 7 and 16: the scale of activations, their decomposition into features and an error, and stored against
recomputed activations.

Shapes: N tokens, T positions of a block, D width, P active pairs.
"""

from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np
import torch
from torch import Tensor

from sae_pipeline.activations.reader import KEEP, ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.survey.measurement import Measurement

CHUNK = 8192


def some_tokens(reader: ActivationReader, split: str, n_tokens: int, seed: int) -> Tensor:
    """Unmasked tokens of a split: whole shards in random order, so that activations computed on the way are computed once;
    of the last shard, and of one that alone has too many, a random part. Ascending."""
    random = torch.Generator().manual_seed(seed)
    parts = [part for part in reader.by_shard(reader.token_index(split)) if len(part)]
    taken, n = [], 0
    for i in torch.randperm(len(parts), generator=random).tolist():
        part = parts[i][torch.randperm(len(parts[i]), generator=random)[: n_tokens - n]]
        taken, n = [*taken, part], n + len(part)
        if n == n_tokens:
            break
    return torch.cat(taken).sort().values


def scaled_norm_error(reader: ActivationReader, n_tokens: int, seed: int) -> Measurement:
    """|E‖x‖² / D - 1| over training tokens; a centred study is held to its scaled variance, which is the same once mu is off."""
    index_N = some_tokens(reader, "train", n_tokens, seed)
    squared, raw = [], []
    for part_N in index_N.split(CHUNK):
        r_ND = reader.gather(part_N)
        squared.append(reader.scaled(r_ND).double().square().sum(1))
        raw.append(r_ND.double().square().sum(1))
    squared_N, raw_N = torch.cat(squared), torch.cat(raw)
    return Measurement(
        "scaled_norm_error", f"|E‖x‖² / D - 1|, x {'centred' if reader.centered else 'not centred'}",
        float(abs(squared_N.mean() / reader.d_model - 1)), len(index_N), len(index_N),
        control="raw activations", control_value=float(abs(raw_N.mean() / reader.d_model - 1)),
        why="over the tokens that the scale was set on, as the definition says: no sample, so without an interval",
    )  # fmt: skip


def decomposition_error(saes: Mapping[int, SparseAutoencoder], r_ND: Tensor) -> Measurement:
    """Largest ‖b_dec + sum f_i W_dec,i + error - x‖ / ‖x‖, the sum taken in float64 pair by pair.

    The error term is that of a splice or a clamp: raw activation minus raw reconstruction. SAEs that normalise every token by
    itself are held to their raw activation.
    """
    worst, without = 0.0, []
    for sae in saes.values():
        codes = sae.encode_sparse(r_ND)
        error_ND = r_ND.double() - sae.decode_sparse(codes).double()
        rows_PD = sae.W_dec_FD[codes.feature.long()].double() * codes.value.double()[:, None]
        sum_ND = torch.zeros(len(r_ND), sae.d_model, dtype=torch.float64).index_add_(0, codes.token, rows_PD)
        frame = codes.frame or sae.encoder_input(r_ND)
        total_ND = (sum_ND + sae.b_dec_D.double()) / _double(frame.gain) + frame.shift.double() + error_ND
        norm_N = (r_ND.double() - sae.mean_D.double()).norm(dim=1)
        worst = max(worst, float(((total_ND - r_ND.double()).norm(dim=1) / norm_N).max()))
        without.append(float((error_ND.norm(dim=1) / norm_N).median()))
    return Measurement(
        "decomposition_error", "largest relative error of features plus error term, over tokens and sizes", worst,
        len(r_ND) * len(saes), len(r_ND) * len(saes), control="without the error term (median token)",
        control_value=float(max(without)), why="held-out tokens; a bound, so without an interval",
        rows="survey_measurements",
    )  # fmt: skip


def _double(gain: Tensor | float) -> Tensor | float:
    return gain.double() if isinstance(gain, Tensor) else gain


def stored_activation_error(
    corpus: CorpusReader, reader: ActivationReader, lm: LanguageModel, saes: Mapping[int, SparseAutoencoder],
    feature_stats: Mapping[int, Path], n_examples: int, seed: int,
) -> Measurement:  # fmt: skip
    """Stored windows of random examples against model and SAE run again: largest difference as a share of the feature's maximum.

    The model runs in the format of the harvest, one block at a time, and its activation is rounded to the stored one's.
    """
    worst, other, n = 0.0, [], 0
    stored_dtype = getattr(torch, reader.facts["dtype"])
    for size, sae in saes.items():
        rows = random_examples(feature_stats[size], n_examples, seed)
        for feature, token_index, center, activations, maximum in rows:
            block = token_index // corpus.context
            first = token_index % corpus.context - center
            places = slice(first, first + len(activations))
            r_TD = lm.residual(torch.from_numpy(corpus.token_ids_BT[block : block + 1]))[0].to("cpu", stored_dtype)[places]
            f_TF = sae.encode(r_TD)
            f_TF[reader.reason_BT[block, places] != KEEP] = 0  # masked tokens are in no statistics
            stored_T = torch.tensor(activations)
            worst = max(worst, float((f_TF[:, feature].cpu() - stored_T).abs().max()) / maximum)
            other.append(float((f_TF[:, (feature + 1) % size].cpu() - stored_T).abs().max()) / maximum)
            n += 1
    return Measurement(
        "stored_activation_error", "largest |stored - recomputed| in an example's window, relative to the feature's maximum",
        worst, n, n_examples * len(saes), control="another feature on the same windows (median)",
        control_value=float(np.median(other)) if other else None,
        why=f"model in {str(lm.dtype).removeprefix('torch.')}, stored in {reader.facts['dtype']}; a bound, without an interval",
        rows="feature_examples",
    )  # fmt: skip


def random_examples(folder: Path, n: int, seed: int) -> list[tuple[int, int, int, list[float], float]]:
    """(feature, token index, place of the token in the window, activations of the window, feature's maximum), one per feature."""
    with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
        files = {"examples": str(folder / "feature_examples.parquet"), "features": str(folder / "features.parquet")}
        alive = connection.execute("SELECT feature FROM read_parquet($f) WHERE alive ORDER BY feature", {"f": files["features"]})
        features = np.array([feature for (feature,) in alive.fetchall()])
        random = np.random.default_rng(seed)
        chosen = np.sort(random.choice(features, min(n, len(features)), replace=False)).tolist()
        found = connection.execute(
            """SELECT e.feature, e.token_index, e.center, e.activations, f.max_activation
            FROM read_parquet($examples) e JOIN read_parquet($features) f USING (feature)
            WHERE list_contains($chosen, e.feature) AND f.max_activation > 0 ORDER BY ALL""",
            {**files, "chosen": chosen},
        ).fetchall()
    by_feature = {feature: [row for row in found if row[0] == feature] for feature in chosen}
    return [rows[random.integers(len(rows))] for rows in by_feature.values() if rows]
