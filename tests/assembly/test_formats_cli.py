"""`sae-pipeline import`, `export` and `convert` on a finished study: what they print, write and refuse."""

import gzip
import json

import polars as pl
import pytest
import yaml

from sae_pipeline.formats.export import largest_difference, study_sae
from sae_pipeline.formats.registry import read_sae
from tests.formats import makers

SPACE = ("modelId", "layer", "index")


def test_export_import_convert_and_back(finished_study, tmp_path):
    code, out, errors = finished_study.command("export", "--to", "saelens", "--size", "64", "--out", str(tmp_path / "out"))
    assert code == 0, errors
    folder = tmp_path / "out" / "64"
    assert "cfg.json" in out and "sae_weights.safetensors" in out
    raw = study_sae(finished_study.store.path("sae", 64), "test")
    assert largest_difference(raw, read_sae("saelens", folder)) < 1e-5
    code, out, errors = finished_study.command("import", "--format", "saelens", "--path", str(folder))
    assert code == 0, errors
    assert "batch_topk, 64 features of 32 dimensions" in out and "hook blocks.1.hook_resid_post" in out
    assert "residual after block 1" in out and "differs" not in out
    section = yaml.safe_load(out[out.index("  sae: ") :])["sae"]
    assert section == {"source": "pretrained", "format": "saelens", "path": str(folder), "sizes": [64]}


def test_export_own_is_the_artefact_itself(finished_study, tmp_path):
    code, _, errors = finished_study.command("export", "--to", "own", "--out", str(tmp_path / "own"))
    assert code == 0, errors
    for size in (32, 64):
        for name in ("weights.safetensors", "config.json"):
            written, published = tmp_path / "own" / str(size) / name, finished_study.store.path("sae", size) / name
            assert written.read_bytes() == published.read_bytes()


def lines(file) -> list[dict]:
    text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_neuronpedia_layout_holds_the_studys_own_numbers(finished_study, tmp_path):
    options = ("export", "--to", "neuronpedia", "--size", "64", "--creator", "me", "--model-id", "tiny-llama")
    code, _, errors = finished_study.command(*options, "--out", str(tmp_path / "a"))
    assert code == 0, errors
    folder = tmp_path / "a" / "tiny-llama" / "1-res-64"
    assert sorted(path.name for path in folder.iterdir()) == [
        "activations", "explanations", "features", "model.jsonl", "release.jsonl", "source.jsonl", "sourceset.jsonl",
    ]  # fmt: skip
    (source,), (sourceset,), (model,), (release,) = (
        lines(folder / f"{name}.jsonl") for name in ("source", "sourceset", "model", "release")
    )
    assert source["id"] == "1-res-64" and source["setName"] == sourceset["name"] == "res-64"
    assert source["modelId"] == sourceset["modelId"] == model["id"] == "tiny-llama"
    assert sourceset["releaseName"] == release["name"] and release["creatorName"] == "me"
    stats = finished_study.store.path("feature_stats", 64)
    features, rows = lines(folder / "features" / "batch-0.jsonl.gz"), pl.read_parquet(stats / "features.parquet").to_dicts()
    assert len(features) == len(rows) == 64
    for feature, row in zip(features, rows, strict=True):
        assert feature["index"] == str(row["feature"]) and feature["frac_nonzero"] == row["density"]
        assert feature["maxActApprox"] == (row["max_activation"] or 0.0)
        assert len(feature["freq_hist_data_bar_heights"]) == len(feature["freq_hist_data_bar_values"]) == 10
        assert sum(feature["freq_hist_data_bar_heights"]) == row["n_active_train"] + row["n_active_held_out"]
        assert feature["pos_values"] == sorted(feature["pos_values"], reverse=True)
    activations, examples = (
        lines(folder / "activations" / "batch-0.jsonl.gz"),
        pl.read_parquet(stats / "feature_examples.parquet"),
    )
    assert len(activations) == len(examples) and len({row["id"] for row in activations}) == len(activations)
    tops = [row for row in activations if (row["binMin"], row["binMax"], row["binContains"]) == (-1, 99, -1)]
    assert len(tops) == len(examples.filter(pl.col("kind") == "top"))
    for row in activations:
        assert len(row["tokens"]) == len(row["values"]) and row["maxValue"] == max(row["values"])
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"]
    explanations = lines(folder / "explanations" / "batch-0.jsonl.gz")
    texts = pl.read_parquet(finished_study.store.path("explanations", 64) / "explanations.parquet")
    ours = texts.filter((pl.col("unit") == "sae_feature") & (pl.col("control") == "none") & (pl.col("status") == "ok"))
    assert sorted(row["description"] for row in explanations) == sorted(ours["text"].to_list()) and explanations
    known = {tuple(feature[name] for name in SPACE) for feature in features}
    assert {tuple(row[name] for name in SPACE) for row in [*activations, *explanations]} <= known  # foreign keys hold
    finished_study.command(*options, "--out", str(tmp_path / "b"))
    for file in sorted((tmp_path / "a").rglob("*.jsonl*")):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()


def test_a_dry_push_shows_files_and_a_card_with_the_measured_numbers(finished_study, monkeypatch):
    import huggingface_hub

    def no_network(*args, **kwargs):
        raise AssertionError("a dry run opened the hub")

    monkeypatch.setattr(huggingface_hub, "HfApi", no_network)
    code, out, errors = finished_study.command("export", "--push", "me/saes", "--dry-run", "--license", "mit")
    assert code == 0, errors
    for size in (32, 64):
        assert f"me/saes/blocks.1.hook_resid_post/width_{size}/sae_weights.safetensors" in out
        row = pl.read_parquet(finished_study.store.path("sae_metrics", size) / "sae_metrics.parquet").row(0, named=True)
        assert f"| {size} | batch_topk | {row['l0']:.1f} | {row['explained_variance']:.3f} |" in out
    for words in ("license: mit", "library_name: saelens", 'SAE.from_pretrained("me/saes"', "nothing was uploaded"):
        assert words in out, words


def test_a_push_is_one_commit_of_these_files(finished_study, monkeypatch):
    import huggingface_hub

    calls: list[tuple] = []

    class Api:
        def create_repo(self, repository, private, exist_ok):
            calls.append(("create", repository, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append(("upload", repo_id, sorted(path.name for path in folder_path.rglob("*") if path.is_file())))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    code, out, errors = finished_study.command("export", "--push", "me/saes", "--size", "32", "--private")
    assert code == 0, errors
    assert calls == [
        ("create", "me/saes", True, True), ("upload", "me/saes", ["README.md", "cfg.json", "sae_weights.safetensors"]),
    ]  # fmt: skip
    assert "https://huggingface.co/me/saes" in out


def test_a_push_without_a_token_says_so(finished_study, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, errors = finished_study.command("export", "--push", "me/saes", "--size", "32")
    assert code == 2 and errors.count("\n") == 1 and "--push" in errors, errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("export", "--to", "saelens"), ("--out: is missing",)),
        (("export", "--to", "sparsify", "--out", "{out}"), ("sparsify knows top-k only", "saelens")),
        (("export", "--to", "gemma_scope", "--out", "{out}"), ("can be read, not written", "saelens, sparsify, own")),
        (("export", "--to", "saelens", "--size", "7", "--out", "{out}"), ("--size: 7 is not in sae.sizes",)),
        (("export", "--push", "nobody"), ("no repository id", "owner/name")),
        (("export", "--dry-run", "--out", "{out}"), ("Add --push",)),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(finished_study, tmp_path, options, words):
    out = tmp_path / "out"
    code, _, errors = finished_study.command(*(option.format(out=out) for option in options))
    assert code == 2 and errors.count("\n") == 1, errors
    for word in words:
        assert word in errors
    assert not list(tmp_path.iterdir())


def test_convert_and_import_need_no_study(tmp_path, capfd):
    from sae_pipeline.__main__ import main

    makers.dictionary_learning(tmp_path / "in", "AutoEncoderTopK")
    place = ("--path", str(tmp_path / "in"))
    with pytest.raises(SystemExit) as stop:
        main(["convert", "--from", "dictionary_learning", *place, "--to", "sparsify", "--out", str(tmp_path / "out")])
    assert stop.value.code in (0, None)
    assert "written: " in capfd.readouterr().out
    assert largest_difference(read_sae("dictionary_learning", tmp_path / "in"), read_sae("sparsify", tmp_path / "out")) < 1e-5
    with pytest.raises(SystemExit) as stop:
        main(["import", "--format", "dictionary_learning", *place, "--out", str(tmp_path / "own")])
    out = capfd.readouterr().out
    assert "the 6 largest of a token" in out and "format: dictionary_learning" in out and stop.value.code in (0, None)
    assert largest_difference(read_sae("dictionary_learning", tmp_path / "in"), read_sae("own", tmp_path / "own")) < 1e-5
