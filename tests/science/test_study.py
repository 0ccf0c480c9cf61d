"""Bad studies are refused with field, value and mend."""

from pathlib import Path

import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.inputs import external_inputs
from sae_pipeline.stages import RECIPES, STAGES, study_digest
from sae_pipeline.study import Sae, load_study, parse_study
from tests.science.test_store import RAW


def test_demo_study_loads_and_writes_every_default_down() -> None:
    study = load_study("studies/demo.yaml")
    assert study.sae.sizes[-1] >= 16_384
    assert study.hook.site == "residual"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"saes": {}}, ["unknown key `saes`", "spelling"]),
        ({"sae": {"sizes": [128, 64]}}, ["`sae.sizes` = [128, 64]", "increasing"]),
        ({"sae": {"sizes": [16, 64]}}, ["k = 32", "smallest size 16"]),
        ({"sae": {"sizes": [64], "architecture": "relu_l1", "k": 3}}, ["k belongs to topk"]),
        ({"sae": {"sizes": [64], "l1": 3}}, ["l1 belongs to relu_l1 and gated; batch_topk sets sparsity by k"]),
        ({"sae": {"sizes": [64], "architecture": "gated", "k": 3}}, ["k belongs to topk", "gated sets sparsity by l1"]),
        ({"sae": {"sizes": [64], "sparsity_loss": "step"}}, ["sparsity_loss belongs to jumprelu"]),
        ({"sae": {"sizes": [64], "architecture": "jumprelu", "l1": 3}}, ["jumprelu sets sparsity by sparsity"]),
        ({"sae": {"sizes": [64], "prefixes": [0.5, 1]}}, ["prefixes belongs to matryoshka"]),
        ({"sae": {"sizes": [64], "architecture": "matryoshka", "prefixes": [0.5, 0.9]}}, ["end with 1"]),
        ({"sae": {"sizes": [4], "k": 2, "architecture": "matryoshka"}}, ["5 prefixes do not fit", "size 4"]),
        ({"sae": {"sizes": [64], "learning_rate": {32: 1e-3, 64: 1e-3}}}, ["learning_rate names size 32"]),
        ({"sae": {"sizes": [64, 128], "learning_rate": {64: 1e-3}}}, ["learning_rate has no entry for size 128"]),
        ({"sae": {"sizes": [64], "learning_rate": {"other": -1e-3}}}, ["learning_rate must be positive"]),
        ({"hook": {"after_block": -1}}, ["`hook.after_block` = -1"]),
        ({"hook": {}}, ["`hook.after_block` is missing"]),
        ({"corpus": {"sources": []}}, ["`corpus.sources` = []"]),
        ({"corpus": {"sources": RAW["corpus"]["sources"] * 2}}, ["share a name"]),
        ({"steer": {"n_features": {99: 3}}}, ["size 99"]),
        ({"score": {"features": [64]}}, ["feature 64", "smallest size is 64"]),
        ({"model": {"source": "ftp"}}, ["`model`", "hub"]),
        ({"name": "Not A Name"}, ["`name` = 'Not A Name'"]),
        ({"score": {"features": [3, -1]}}, ["names feature -1", "smallest size is 64"]),
        ({"steer": {"features": []}}, ["steer.features is an empty list"]),
        ({"steer": {"factors": [0]}}, ["`steer`", "factors = [0.0]", "one must be positive"]),
        ({"steer": {"factors": [1, 1]}}, ["they must differ"]),
        ({"steer": {"n_features": {"other": -3}}}, ["n_features must not be negative"]),
        ({"sae": {"sizes": [64], "epochs": float("inf")}}, ["`sae.epochs` = inf", "finite"]),
        ({"steer": {"factors": [float("nan")]}}, ["`steer.factors.0` = nan", "finite"]),
        ({"corpus": {**RAW["corpus"], "seed": -1}}, ["`corpus.seed` = -1", "from 0 to 4294967295"]),
        ({"survey": {"completeness": {"seed": 2**32}}}, ["`survey.completeness.seed` = 4294967296"]),
    ],
)
def test_bad_study_names_field_value_and_mend(change: dict, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_study({**RAW, **change}, where="x.yaml")
    message = str(caught.value)
    assert message.startswith("x.yaml: ")
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": {"source": "package", "package": 3, "file": "x.gguf"}}, "`model.package` = 3"),
        ({"model": {"source": "package", "file": "x.gguf"}}, "`model.package` is missing"),
        ({"model": {"source": "folder"}}, "`model.path` is missing"),
        ({"model": {"source": "hub", "id": "a/b", "size": 1}}, "unknown key `model.size`"),
        (
            {"corpus": {"sources": [{"kind": "local", "path": "x", "format": "csv", "tokens": 9}]}},
            "`corpus.sources.0.format` = 'csv'",
        ),
        ({"sae": {"sizes": [64], "learning_rate": "fast"}}, "`sae.learning_rate` = 'fast'"),
        ({"sae": {"sizes": [64], "learning_rate": {64: "fast"}}}, "`sae.learning_rate.64` = 'fast'"),
        ({"sae": {"sizes": [64], "learning_rate": {}}}, "learning_rate must be positive"),
        ({"model": {}}, "`model.source` is missing"),
        ({"survey": {"scaling_laws": {"sizes": [0, 0, 0, 0]}}}, "`survey.scaling_laws.sizes` = [0, 0, 0, 0]"),
        ({"sae": {"source": "pretrained", "sizes": [64], "path": "x"}}, "`sae.format` is missing"),
    ],
)
def test_fields_are_named_as_the_file_writes_them(change: dict, field: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_study({**RAW, **change})
    assert field in str(caught.value)
    assert "more problem" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such study file"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"not readable as YAML: .*\(line 1, column 5\)") as caught:
        load_study(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)
    (tmp_path / "deep.yaml").write_text("[" * 5000, encoding="utf-8")
    with pytest.raises(UserError, match="not readable as YAML"):
        load_study(tmp_path / "deep.yaml")
    (tmp_path / "twice.yaml").write_text("name: a\nhook: {after_block: 1}\nname: b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"key 'name' is given twice \(line 3, column 1\)"):
        load_study(tmp_path / "twice.yaml")
    (tmp_path / "list.yaml").write_text("- 1", encoding="utf-8")
    with pytest.raises(UserError, match="a mapping of sections"):
        load_study(tmp_path / "list.yaml")


def test_another_size_s_learning_rate_leaves_this_size_fresh() -> None:
    def study(rates: dict):
        return parse_study({**RAW, "sae": {"sizes": [64, 128], "learning_rate": rates}})

    before, after = study({64: 1e-3, "other": 2e-3}), study({64: 1e-3, "other": 5e-3})
    assert isinstance(after.sae, Sae)
    assert after.sae.learning_rate_of(64) == 1e-3 and after.sae.learning_rate_of(128) == 5e-3
    assert study_digest(before, "sae", 64) == study_digest(after, "sae", 64)
    assert study_digest(before, "sae", 128) != study_digest(after, "sae", 128)


def test_another_recipe_of_an_architecture_rebuilds_its_own_saes_only(monkeypatch):
    studies = {name: parse_study({**RAW, "sae": {"sizes": [64], "architecture": name}}) for name in ("gated", "batch_topk")}
    before = {(name, stage): study_digest(study, stage, 64) for name, study in studies.items() for stage in STAGES}
    monkeypatch.setitem(RECIPES, "gated", 99)
    changed = {key for key, digest in before.items() if study_digest(studies[key[0]], key[1], 64) != digest}
    assert changed == {("gated", "sae"), ("gated", "random_model")}


@pytest.mark.parametrize("path", ["", "/", "a**b", "no*such.txt"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    source = {"kind": "local", "path": path, "format": "text", "tokens": 5, "name": "mine"}
    study = parse_study({**RAW, "corpus": {"sources": [source]}})
    with pytest.raises(UserError, match=r"corpus.sources.mine.path: no file matches"):
        external_inputs(study, "corpus")


@pytest.mark.parametrize("package", ["no.such.package", "", "nosuchpackage"])
def test_a_package_that_is_not_there_is_refused(package: str) -> None:
    study = parse_study({**RAW, "model": {"source": "package", "package": package, "file": "x.gguf"}})
    with pytest.raises(UserError, match=r"model.package: package .*is not installed"):
        external_inputs(study, "corpus")
