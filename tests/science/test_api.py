"""The Python API and the terminal view, on hand-made artefacts of the tiny model; the documented lines run as they stand."""

import io
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from rich.console import Console

from sae_pipeline.api import open_study, steer
from sae_pipeline.errors import UserError
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.steering.terminal import steer_in_terminal
from sae_pipeline.store import ArtifactStore, Outcome
from sae_pipeline.study import Study, parse_study
from tests.conftest import tiny_study_mapping

SIZE, D_MODEL, SILENT = 16384, 32, 77
TEXT = "The ship and the harbour"
DOCUMENTED = [Path("docs/python_api.md"), Path("README.md")]


@pytest.fixture(scope="module")
def opened(tiny_model_folder, tiny_text_folder, tmp_path_factory):
    """A study called `demo` with its file and data folder: an SAE of 16,384 random features, statistics, one explanation."""
    root = tmp_path_factory.mktemp("api")
    mapping = tiny_study_mapping(tiny_model_folder, tiny_text_folder, name="demo")
    mapping["sae"]["sizes"] = [SIZE]
    (root / "studies").mkdir()
    (root / "studies" / "demo.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    _publish_artefacts(parse_study(mapping), root)
    return open_study(root / "studies" / "demo.yaml", root / "data")


def _publish_artefacts(study: Study, root: Path) -> None:
    store = ArtifactStore(study, root / "data")
    draw = torch.Generator().manual_seed(0)
    W_FD = torch.randn(SIZE, D_MODEL, generator=draw)
    W_FD /= W_FD.norm(dim=1, keepdim=True)
    weights = {
        "W_enc_FD": W_FD, "b_enc_F": torch.zeros(SIZE), "W_dec_FD": W_FD.clone(), "b_dec_D": torch.zeros(D_MODEL),
        "threshold_F": torch.full((SIZE,), 3.0), "mean_D": torch.full((D_MODEL,), 0.1),
    }  # fmt: skip
    config = {"architecture": "batch_topk", "n_features": SIZE, "d_model": D_MODEL, "scale": 0.7, "threshold_norm": 1e6}
    maxima = torch.full((SIZE,), 9.0)
    maxima[SILENT] = 0

    def publish(stage: str, write) -> None:
        work = root / "work" / stage
        work.mkdir(parents=True)
        write(work)
        store._publish(stage, SIZE, work, Outcome(), {}, datetime.now(UTC), 0.0)

    publish("sae", SparseAutoencoder(weights, config).save)
    features = pl.DataFrame({"feature": pl.Series(range(SIZE), dtype=pl.Int32), "max_activation": maxima.numpy()})
    publish("feature_stats", lambda work: features.write_parquet(work / "features.parquet"))
    words = {
        "unit": ["sae_feature", "mlp_neuron", "sae_feature"], "control": ["none", "mlp_neuron", "none"], "status": ["ok"] * 3,
        "plumbing": [False, False, True],
    }  # fmt: skip
    # What a model too small to judge wrote never stands for an explanation.
    explained = pl.DataFrame({**words, "feature": [1234, None, 1234], "text": ["ships and [harbours]", "a neuron", "it"]})
    publish("explanations", lambda work: explained.write_parquet(work / "explanations.parquet"))


def test_encode_decode_and_features_of_a_text_agree(opened):
    sae = opened.sae(SIZE)
    r_TD = opened.residual(TEXT)
    ids = opened.lm.tokenize(TEXT, bos=True)
    assert r_TD.shape == (len(ids), D_MODEL)
    f_TF = torch.relu((r_TD - 0.1) * 0.7 @ sae.W_enc_FD.T)
    f_TF[f_TF <= 3.0] = 0
    torch.testing.assert_close(sae.encode(r_TD), f_TF, atol=1e-3, rtol=0)
    torch.testing.assert_close(sae.decode(f_TF), f_TF @ sae.W_dec_FD / 0.7 + 0.1, atol=1e-2, rtol=0)
    found = opened.features_of(TEXT, SIZE, top=2)
    assert {each.position for each in found} == set(range(1, len(ids)))  # the first token is masked
    strongest = next(each for each in found if each.position == 2)
    assert strongest.feature == int(f_TF[2].argmax())
    assert strongest.activation == pytest.approx(float(f_TF[2].max()), abs=1e-3)
    assert strongest.token == opened.lm.decode([ids[2]])


def test_features_of_a_text_skip_massive_tokens_and_carry_explanations(opened):
    sae = opened.sae(SIZE)
    norm_T = opened.residual(TEXT).norm(dim=1)
    highest = int(norm_T[1:].argmax()) + 1
    before, sae.config["threshold_norm"] = sae.config["threshold_norm"], float(norm_T[highest]) - 1e-3
    assert highest not in {each.position for each in opened.features_of(TEXT, SIZE)}
    sae.config["threshold_norm"] = before
    everything = opened.features_of(TEXT, SIZE, top=SIZE)
    explained = {each.explanation for each in everything if each.feature == 1234}
    assert explained == {"ships and [harbours]"}
    assert {each.explanation for each in everything if each.feature != 1234} == {None}


def test_steer_changes_the_model_inside_the_block_only(opened):
    lm, sae = opened.lm, opened.sae(SIZE)
    ids_1T = torch.tensor([lm.tokenize(TEXT, bos=True)])
    plain = lm.model(input_ids=ids_1T).logits
    with steer(lm, sae, {1234: 2.0, 5: 0.0}):
        inside = lm.residual(ids_1T)
        assert (lm.model(input_ids=ids_1T).logits - plain).abs().max() > 1e-3
    assert torch.equal(lm.model(input_ids=ids_1T).logits, plain)
    r_1TD = lm.residual(ids_1T)
    f_TF = sae.encode(r_1TD[0])
    shift_TD = (2 * 9.0 - f_TF[:, 1234])[:, None] * sae.W_dec_FD[1234] - f_TF[:, 5, None] * sae.W_dec_FD[5]
    torch.testing.assert_close(inside[0], r_1TD[0] + shift_TD / 0.7, atol=1e-3, rtol=0)


def test_mistakes_are_named(opened):
    with pytest.raises(UserError, match=r"no SAE of 99 features. Its sizes are \[16384\]"):
        opened.sae(99)
    for feature, what in ((SIZE, "not one of this SAE's features"), (SILENT, "never active in training")):
        with pytest.raises(UserError, match=what), steer(opened.lm, opened.sae(SIZE), {feature: 1.0}):
            pass
    with pytest.raises(UserError, match="no feature is given"):
        steer_in_terminal(opened.study, "unused", SIZE, {}, "Hi")


@pytest.mark.parametrize("page", [page for page in DOCUMENTED if page.is_file()], ids=str)
def test_the_documented_lines_run_as_they_stand(opened, page, monkeypatch, capsys):
    blocks = [
        block
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
        if "sae_pipeline.api" in block
    ]
    assert blocks
    monkeypatch.chdir(opened.store.root.parents[1])
    for block in blocks:
        exec(compile(block, str(page), "exec"), {})
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) > 5


def test_the_api_imports_neither_dagster_nor_a_server():
    check = "import sys, sae_pipeline.api; print({'dagster', 'starlette', 'anthropic'} & {m.split('.')[0] for m in sys.modules})"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def run_in_terminal(opened, console: Console, **changes) -> tuple[str, str]:
    settings = {"feature_factors": {1234: 3.0}, "prompt": "Hello", "max_new_tokens": 6, "console": console, "seed": 3} | changes
    return steer_in_terminal(opened.study, opened.store.root.parent, SIZE, **settings)


def test_without_a_terminal_both_texts_are_printed_once(opened):
    out = io.StringIO()
    baseline, steered = run_in_terminal(opened, Console(file=out, force_terminal=False))
    assert baseline != steered
    printed = out.getvalue()
    assert "feature 16384/1234 clamped to 3 x its maximum: ships and [harbours]" in printed
    assert f"unsteered: {baseline}" in printed and f"steered:   {steered}" in printed
    assert "\x1b" not in printed
    assert baseline == opened.lm.decode(opened.lm.generate([opened.lm.chat("Hello")], 6, 0.7, [3])[0])
    with steer(opened.lm, opened.sae(SIZE), {1234: 3.0}):
        assert steered == opened.answer("Hello", 6, 0.7, seed=3)


def test_on_a_terminal_two_columns_grow_to_the_same_texts(opened):
    out = io.StringIO()
    texts = run_in_terminal(opened, Console(file=out, force_terminal=True, width=100), mode="add")
    assert texts[0] != texts[1]
    printed = out.getvalue()
    assert "unsteered" in printed and "steered" in printed and "plus 3 x its maximum" in printed
    rows = [line for line in printed.splitlines() if line.count("│") >= 4]  # two panels in one line
    assert rows
