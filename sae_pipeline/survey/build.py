"""The stage `neighbourhoods`: nearest features within and across sizes, and the map of all of them.

Shapes: F features, D width, K neighbours.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from sae_pipeline.progress import bar
from sae_pipeline.store import Outcome
from sae_pipeline.study_survey import Neighbourhoods
from sae_pipeline.survey.neighbours import decoder_rows, nearest_features
from sae_pipeline.survey.projection import project
from sae_pipeline.tables.schemas import conform, empty

NEIGHBOURS, MAP = "feature_neighbours.parquet", "feature_map.parquet"


def build_neighbourhoods(sae_folders: Mapping[int, Path], settings: Neighbourhoods, work: Path) -> Outcome:
    """Write both tables into `work`. `sae_folders`: {size: folder of its SAE}. Raises `UserError` for missing weights."""
    directions = {size: decoder_rows(folder) for size, folder in sae_folders.items()}
    first = dict(zip(directions, np.cumsum([0, *(len(rows) for rows in directions.values())]).tolist(), strict=False))
    # The best K over all sizes are among the best K of every size.
    overall: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {size: [] for size in directions}
    best: dict[str, float] = {}
    schema = empty("feature_neighbours").to_arrow().schema
    with (
        pq.ParquetWriter(work / NEIGHBOURS, schema, compression="zstd") as writer,
        bar("nearest features", sum(map(len, directions.values())) * len(directions), "features") as progress,
    ):
        for size, rows_FD in directions.items():
            for other, others_FD in directions.items():
                neighbours, cosines = [], []
                for _, neighbour_QK, cosine_QK in nearest_features(rows_FD, others_FD, settings.n_neighbours, size == other):
                    neighbours.append(neighbour_QK)
                    cosines.append(cosine_QK)
                    progress.update(len(neighbour_QK))
                neighbour_FK, cosine_FK = np.concatenate(neighbours), np.concatenate(cosines)
                writer.write_table(_rows(size, other, neighbour_FK, cosine_FK).to_arrow())
                overall[size].append((neighbour_FK + first[other], cosine_FK))
                if cosine_FK.shape[1]:
                    best[f"median nearest cosine {size} to {other}"] = float(np.median(cosine_FK[:, 0]))
    neighbour_FK, cosine_FK = _merged(list(overall.values()), settings.n_neighbours)
    directions_FD = np.concatenate(list(directions.values()))
    with bar("map of features", len(directions_FD), "features") as progress:
        place_F2 = project(directions_FD, neighbour_FK, cosine_FK, settings.min_dist, settings.seed)
        progress.update(len(directions_FD))
    size_F = np.concatenate([np.full(len(rows_FD), size) for size, rows_FD in directions.items()])
    feature_F = np.concatenate([np.arange(len(rows_FD)) for rows_FD in directions.values()])
    frame = pl.DataFrame({"size": size_F, "feature": feature_F, "x": place_F2[:, 0], "y": place_F2[:, 1]})
    conform("feature_map", frame).write_parquet(work / MAP, compression="zstd")
    return Outcome({"n_features": len(directions_FD), **best})


def _rows(size: int, other: int, neighbour_FK: np.ndarray, cosine_FK: np.ndarray) -> pl.DataFrame:
    n_features, k = neighbour_FK.shape
    return conform(
        "feature_neighbours",
        pl.DataFrame({
            "size": np.full(n_features * k, size), "feature": np.repeat(np.arange(n_features), k),
            "neighbour_size": np.full(n_features * k, other), "rank": np.tile(np.arange(1, k + 1), n_features),
            "neighbour": neighbour_FK.ravel(), "cosine": cosine_FK.ravel().clip(-1, 1),
        }),
    )  # fmt: skip


def _merged(overall: list[list[tuple[np.ndarray, np.ndarray]]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """(neighbours, cosines) over all sizes, F x K, counted through all sizes; `overall`: per size, one pair per other size."""
    found = [
        (np.concatenate([pair[0] for pair in pairs], axis=1), np.concatenate([pair[1] for pair in pairs], axis=1))
        for pairs in overall
    ]
    # Sizes of fewer than K features give shorter lists; all rows have the shortest one's length.
    k = min(n, *(neighbour.shape[1] for neighbour, _ in found))
    orders = [np.argsort(-cosine, axis=1, kind="stable")[:, :k] for _, cosine in found]
    return (
        np.concatenate(
            [np.take_along_axis(neighbour, order, axis=1) for (neighbour, _), order in zip(found, orders, strict=True)]
        ),
        np.concatenate([np.take_along_axis(cosine, order, axis=1) for (_, cosine), order in zip(found, orders, strict=True)]),
    )
