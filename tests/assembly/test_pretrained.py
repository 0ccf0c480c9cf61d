"""A study that names SAEs made elsewhere: imported instead of trained, everything after that as usual."""

import json
import shutil

import dagster as dg
import duckdb
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from sae_pipeline.formats.published import from_published
from sae_pipeline.formats.raw_sae import Origin
from sae_pipeline.formats.saelens_writer import write_saelens
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from tests.conftest import FinishedStudy


class Imported:
    """The finished tiny study with its SAE of 64 features exported to SAELens files and imported again."""

    def __init__(self, finished: FinishedStudy, folder):
        shutil.copytree(finished.folder, folder / "study")
        self.study = finished.at(folder / "study")
        trained = self.study.store.path("sae", 64)
        self.files = folder / "files"
        origin = Origin("own", "test", "another/model", "blocks.2.hook_resid_post", 32, True)
        write_saelens(from_published(SparseAutoencoder.load(trained), origin), self.files)
        self.metrics = pl.read_parquet(self.study.store.path("sae_metrics", 64) / "sae_metrics.parquet").row(0, named=True)
        self.mapping = yaml.safe_load(self.study.file.read_text(encoding="utf-8"))
        self.write(source="pretrained", format="saelens", path=str(self.files), sizes=[64])
        self.code, self.output, self.errors = 0, "", ""

    def write(self, **sae):
        self.mapping["sae"] = sae
        self.study.file.write_text(yaml.safe_dump(self.mapping), encoding="utf-8")

    def change_config(self, **values):
        file = self.files / "cfg.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    def refused(self, *words):
        before = {path: path.stat().st_mtime_ns for path in self.study.store.root.rglob("manifest.json")}
        code, output, errors = self.study.command("run", "--device", "cpu")
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "Traceback" not in errors, errors
        for word in words:
            assert word in lines[0], lines[0]
        assert "prepare:" not in output  # nothing was started
        assert {path: path.stat().st_mtime_ns for path in self.study.store.root.rglob("manifest.json")} == before
        assert not list((self.study.store.root / ".work").rglob("weights.safetensors"))


@pytest.fixture
def imported(finished_study, tmp_path):
    return Imported(finished_study, tmp_path)


@pytest.fixture(scope="module")
def run(finished_study, tmp_path_factory):
    imported = Imported(finished_study, tmp_path_factory.mktemp("imported"))
    imported.code, imported.output, imported.errors = imported.study.command("run", "--device", "cpu")
    return imported


def test_every_stage_runs_on_an_imported_sae(run):
    assert run.code == 0, run.errors
    assert "imported from" in run.output and "sae/64" in run.output
    store = run.study.store
    for stage in ("sae", "sae_metrics", "feature_stats", "explanations", "specificity_scores", "steering_evals"):
        assert store.freshness(stage, 64).state == "fresh", stage
    for stage in ("corpus", "activations", "analysis_tables", "size_comparison", "report"):
        assert store.freshness(stage).state == "fresh", stage
    with duckdb.connect(str(store.root / "analysis.duckdb"), read_only=True) as connection:
        assert connection.execute("select count(*) from training_history").fetchone() == (0,)
        assert connection.execute("select architecture, n_tokens_trained from sae_metrics").fetchall() == [("batch_topk", None)]
        assert connection.execute("select count(*) from steering_generations").fetchone() != (0,)
    assert "batch_topk" in (store.path("report") / "report.html").read_text(encoding="utf-8")


def test_the_imported_sae_measures_as_the_trained_one_did(run):
    after = pl.read_parquet(run.study.store.path("sae_metrics", 64) / "sae_metrics.parquet").row(0, named=True)
    for column in ("l0", "explained_variance", "delta_ce", "kl", "alive_fraction", "mse"):
        assert after[column] == pytest.approx(run.metrics[column], rel=1e-4, abs=1e-6), column


def test_differences_are_in_the_file_the_metadata_and_on_the_terminal(run):
    report = json.loads((run.study.store.path("sae", 64) / "import.json").read_text(encoding="utf-8"))
    verdicts = {row["what"]: row["verdict"] for row in report["checks"]}
    assert verdicts == {
        "model": "differs", "hook": "differs", "context": "same", "bos": "same", "normalisation": "same", "number format": "same",
    }  # fmt: skip
    expected = "hook: the file has blocks.2.hook_resid_post (residual after block 2), the study residual after block 1"
    assert expected in report["differences"] and expected in run.output
    manifest = run.study.store.manifest("sae", 64)
    assert manifest.metadata["differences"] == report["differences"] and manifest.metadata["n_differences"] == 2
    assert report["explained_variance_sample"] > 0 and report["l0_sample"] > 0
    with dg.DagsterInstance.from_config(str(run.study.home)) as instance:
        filters = dg.AssetRecordsFilter(asset_key=dg.AssetKey("sae"), asset_partitions=["64"])
        event = instance.fetch_materializations(filters, limit=1).records[0].asset_materialization
        assert event is not None and event.metadata["differences"].value == report["differences"]


def test_freshness_follows_bytes_place_and_study(run, tmp_path):
    folder = shutil.copytree(run.study.folder, tmp_path / "copy")
    study = run.study.at(folder)
    code, output, _ = study.command("run")
    assert code == 0 and "Nothing to recompute" in output
    files = shutil.copytree(run.files, tmp_path / "files")
    mapping = yaml.safe_load(study.file.read_text(encoding="utf-8"))
    mapping["sae"]["path"] = str(files)
    study.file.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    assert study.store.freshness("sae", 64).why == "the study changed"
    study.file.write_text(run.study.file.read_text(encoding="utf-8"), encoding="utf-8")
    weights = run.files / "sae_weights.safetensors"
    original = weights.read_bytes()
    try:
        weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        assert study.store.freshness("sae", 64).why == "changed upstream: pretrained SAE 64"
    finally:
        weights.write_bytes(original)
    assert study.store.freshness("sae", 64).state == "fresh"


def test_a_wrong_width_or_size_is_refused_before_anything_starts(imported):
    imported.write(source="pretrained", format="saelens", path=str(imported.files), sizes=[128])
    imported.refused("has 64 features", "sae.sizes says 128", "Put 64 into sae.sizes")
    file = imported.files / "sae_weights.safetensors"
    weights = load_file(file)
    weights |= {"W_enc": weights["W_enc"][:24], "W_dec": weights["W_dec"][:, :24], "b_dec": weights["b_dec"][:24]}
    save_file({key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()}, file)
    imported.change_config(d_in=24)
    imported.write(source="pretrained", format="saelens", path=str(imported.files), sizes=[64])
    imported.refused("is 24 wide", "hook 32", "belongs to another model")


def test_a_damaged_file_leaves_no_half_import(imported):
    file = imported.files / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    imported.refused("sae_weights.safetensors", "truncated", "again")
    imported.write(source="pretrained", format="saelens", path=str(imported.files / "nowhere"), sizes=[64])
    imported.refused("nowhere", "is not there")


def test_an_sae_of_other_activations_is_seen_at_once(imported):
    """Input scale ignored, wrong layer, wrong model: the sample at import tells, before hours of statistics."""
    file = imported.files / "sae_weights.safetensors"
    weights = load_file(file)
    save_file(weights | {"W_enc": weights["W_enc"] * 20, "threshold": weights["threshold"] * 0 + 0.01}, file)
    code, output, errors = imported.study.command("run", "--only", "sae", "--device", "cpu")
    assert code == 0, errors
    assert "reconstructs worse than the mean does" in output
