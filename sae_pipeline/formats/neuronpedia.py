"""Neuronpedia's bulk import: one folder per source, the rows of its database as JSON lines.

    <model>/<layer>-<set>/ release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl
                           features/batch-<n>.jsonl.gz  activations/batch-<n>.jsonl.gz  explanations/batch-<n>.jsonl.gz

Field names are those of Neuronpedia's tables SourceRelease, Model, SourceSet, Source, Neuron, Activation and Explanation. What a
study does not compute (correlated neurons, logit histograms) is an empty list. The same study gives the same bytes.
"""

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sae_pipeline.errors import UserError
from sae_pipeline.formats.compare import model_name
from sae_pipeline.formats.hooks import names_of
from sae_pipeline.progress import track
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.store import ArtifactStore
from sae_pipeline.tables.columns import N_INTERVALS

FEATURES_PER_FILE = 1024
DEFAULT_CREATOR_ID = "clkht01d40000jv08hvalcvly"
"""The user that Neuronpedia's own converters write when none is given."""
TOP_BINS = {"binMin": -1, "binMax": 99, "binContains": -1}
"""Its mark for examples that are the strongest ones, not a sample of an interval."""
Row = dict[str, Any]


@dataclass(frozen=True)
class NeuronpediaNames:
    """What Neuronpedia calls things. `source_set` is without the layer, for example `res-1k`."""

    release: str
    source_set: str
    creator: str
    model: str | None = None
    hub_repository: str | None = None
    creator_id: str = DEFAULT_CREATOR_ID


def export_neuronpedia(store: ArtifactStore, size: int, names: NeuronpediaNames, out: Path) -> Path:
    """Write the import folder of one size below `out`; returns the source's folder. Raises `UserError` for missing artefacts."""
    study = store.study
    stats, sae = store.require("feature_stats", size), SparseAutoencoder.load(store.require("sae", size))
    manifest = store.manifest("feature_stats", size)
    assert manifest is not None
    model, layer = names.model or _model_id(model_name(study)), study.hook.after_block
    source = f"{layer}-{names.source_set}"
    if not names.source_set.replace("-", "").replace("_", "").isalnum():
        raise UserError("--set", f"{names.source_set!r} has characters other than letters, digits, - and _", "Give a plain name.")
    folder = out / model / source
    folder.mkdir(parents=True)
    common = {"creatorId": names.creator_id, "createdAt": manifest.started}
    about = f"{study.hook.site.replace('_', ' ')} after block {layer}, {size:,} features"
    repository = {"hfRepoId": names.hub_repository, "hfFolderId": hub_folder(study, size) if names.hub_repository else None}
    _plain(
        folder / "release.jsonl",
        {
            "name": names.release,
            "description": f"Sparse autoencoders of the study {study.name}",
            "descriptionShort": names.release,
            "creatorName": names.creator,
            "creatorNameShort": names.creator,
            "visibility": "PUBLIC",
            "isNewUi": False,
            "featured": False,
            "urls": [],
            "defaultSourceSetName": names.source_set,
            **common,
        },
    )
    _plain(
        folder / "model.jsonl",
        {
            "id": model,
            "instruct": "instruct" in model.lower() or model.endswith("-it"),
            "displayNameShort": model,
            "displayName": model,
            "visibility": "PUBLIC",
            "inferenceEnabled": False,
            "defaultSourceSetName": names.source_set,
            "dimension": sae.d_model,
            "owner": names.creator,
            "updatedAt": manifest.started,
            **common,
        },
    )
    _plain(
        folder / "sourceset.jsonl",
        {
            "modelId": model,
            "name": names.source_set,
            "hasDashboards": True,
            "visibility": "PUBLIC",
            "description": about,
            "type": "",
            "creatorName": names.creator,
            "urls": [],
            "releaseName": names.release,
            **common,
        },
    )
    blocks = pl.scan_parquet(store.require("corpus") / "blocks.parquet").select(pl.len()).collect().item()
    _plain(folder / "source.jsonl", {
        "modelId": model, "setName": names.source_set, "id": source, "hasDashboards": True, "inferenceEnabled": False,
        "visibility": "PUBLIC", "num_prompts": blocks, "num_tokens_in_prompt": study.corpus.context,
        "dataset": ", ".join(each.label for each in study.corpus.sources), "notes": about, **repository, **common,
    })  # fmt: skip
    unit = (sae.rank_F if sae.rank_F is not None else sae.b_enc_F * 0 + 1).tolist()  # f as the exported weights compute it
    key = {"modelId": model, "layer": source}
    features = _features(stats, unit, names_of(study.hook).transformer_lens)
    _batches(folder / "features", ((row["index"], {**key, **row, **common}) for row in features), size)
    _batches(
        folder / "activations", ((row["index"], {**key, **row, **common}) for row in _activations(stats, unit, source)), size
    )
    explained = store.path("explanations", size) / "explanations.parquet"
    if explained.is_file():
        rows = _explanations(explained, source, names.creator_id)
        _batches(folder / "explanations", ((row["index"], {**key, **row}) for row in rows), size)
    return folder


def hub_folder(study: Any, size: int) -> str:
    """Where an SAE lies in a repository of ours: SAELens calls this the SAE's id."""
    return f"{names_of(study.hook).transformer_lens}/width_{size}"


def _features(stats: Path, unit: list[float], hook: str) -> Iterable[Row]:
    logits = {
        sign: _by_feature(
            pl.read_parquet(stats / "feature_logits.parquet").filter(pl.col("sign") == sign).sort("feature", "rank")
        )
        for sign in ("+", "-")
    }
    counts = pl.read_parquet(stats / "feature_intervals.parquet").group_by("feature", "interval").agg(pl.col("n").sum())
    intervals = {feature: dict(zip(part["interval"], part["n"], strict=True)) for feature, part in _by_feature(counts).items()}
    for row in pl.read_parquet(stats / "features.parquet").sort("feature").iter_rows(named=True):
        feature, top = row["feature"], (row["max_activation"] or 0.0) * unit[row["feature"]]
        promoted, suppressed = (logits[sign].get(feature, {"token": [], "effect": []}) for sign in ("+", "-"))
        heights = intervals.get(feature, {})
        yield {
            "index": str(feature), "maxActApprox": top, "hasVector": False, "vector": [], "vectorLabel": None,
            "vectorDefaultSteerStrength": top, "hookName": hook, "topkCosSimIndices": [], "topkCosSimValues": [],
            "neuron_alignment_indices": [], "neuron_alignment_values": [], "neuron_alignment_l1": [],
            "correlated_neurons_indices": [], "correlated_neurons_pearson": [], "correlated_neurons_l1": [],
            "correlated_features_indices": [], "correlated_features_pearson": [], "correlated_features_l1": [],
            "neg_str": suppressed["token"], "neg_values": suppressed["effect"],
            "pos_str": promoted["token"], "pos_values": promoted["effect"], "frac_nonzero": row["density"],
            "freq_hist_data_bar_heights": [heights.get(i, 0) for i in range(1, N_INTERVALS + 1)],
            "freq_hist_data_bar_values": [top * (i - 0.5) / N_INTERVALS for i in range(1, N_INTERVALS + 1)],
            "logits_hist_data_bar_heights": [], "logits_hist_data_bar_values": [], "decoder_weights_dist": [],
        }  # fmt: skip


def _activations(stats: Path, unit: list[float], source: str) -> Iterable[Row]:
    examples = pl.read_parquet(stats / "feature_examples.parquet").sort("feature", "kind", "split", "interval", "rank")
    tops = pl.read_parquet(stats / "features.parquet", columns=["feature", "max_activation"])
    maximum = dict(zip(tops["feature"], tops["max_activation"], strict=True))
    counts = pl.read_parquet(stats / "feature_intervals.parquet").group_by("feature", "interval").agg(pl.col("n").sum())
    share = {
        (f, i): n / total for f, i, n, total in counts.with_columns(pl.col("n").sum().over("feature").alias("all")).iter_rows()
    }
    for at, row in enumerate(examples.iter_rows(named=True)):
        feature, interval = row["feature"], row["interval"]
        values = [value * unit[feature] for value in row["activations"]]
        step = (maximum[feature] or 0.0) * unit[feature] / N_INTERVALS
        bins = TOP_BINS if row["kind"] == "top" else {
            "binMin": step * (interval - 1), "binMax": step * interval, "binContains": share.get((feature, interval), 0.0),
        }  # fmt: skip
        yield {
            "id": _identity(source, "activation", at), "index": str(feature), "tokens": row["tokens"], "values": values,
            "maxValue": max(values), "maxValueTokenIndex": values.index(max(values)), "minValue": min(values),
            "dataSource": None, "dataIndex": str(row["doc_id"]), "dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None,
            "lossValues": [], "logitContributions": None, **bins, "qualifyingTokenIndex": row["center"],
        }  # fmt: skip


def _explanations(file: Path, source: str, author: str) -> Iterable[Row]:
    ours = (pl.col("unit") == "sae_feature") & (pl.col("control") == "none") & (pl.col("status") == "ok")
    rows = pl.read_parquet(file, columns=["unit", "control", "status", "feature", "method", "model", "text"]).filter(ours)
    for at, row in enumerate(rows.sort("feature", "method").iter_rows(named=True)):
        by = f"{row['method']}{' by ' + row['model'] if row['model'] else ', no language model'}"
        yield {
            "id": _identity(source, "explanation", at), "index": str(row["feature"]), "authorId": author,
            "description": row["text"], "notes": by, "typeName": None, "explanationModelName": None,
        }  # fmt: skip


def _by_feature(rows: pl.DataFrame) -> dict[int, dict[str, list[Any]]]:
    """{feature: {column: values}}."""
    grouped = rows.group_by("feature", maintain_order=True).agg(pl.all())
    return {row.pop("feature"): row for row in grouped.iter_rows(named=True)}


def _batches(folder: Path, rows: Iterable[tuple[str, Mapping[str, Any]]], n_features: int) -> None:
    """One file per FEATURES_PER_FILE features; rows come by ascending feature."""
    folder.mkdir()
    files: dict[int, list[bytes]] = {}
    for index, row in track(rows, f"neuronpedia {folder.name}", unit="rows"):
        batch = int(index) // FEATURES_PER_FILE
        files.setdefault(batch, []).append(json.dumps(row, ensure_ascii=False).encode())
        for done in [number for number in files if number < batch]:
            _gzip(folder, done, files.pop(done))
    for number, lines in files.items():
        _gzip(folder, number, lines)


def _gzip(folder: Path, number: int, lines: list[bytes]) -> None:
    # mtime 0: the same rows are the same bytes.
    (folder / f"batch-{number}.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n", compresslevel=5, mtime=0))


def _plain(file: Path, row: Row) -> None:
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")


def _identity(*parts: Any) -> str:
    """25 characters that begin with c, as the database's own keys do."""
    return "c" + hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:24]


def _model_id(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].removesuffix(".gguf").lower()
