"""Case studies on planted units, planted labels and hand-made texts: what must be found is found, and chance is not."""

import doctest
import io
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch

from sae_pipeline.interpret.explanation_scores import auroc
from sae_pipeline.language_model.load import load_language_model
from sae_pipeline.sae.autoencoder import SparseAutoencoder
from sae_pipeline.study import FolderModel, Hook
from sae_pipeline.survey.cases import prompts, selection
from sae_pipeline.survey.cases.bank import Banks, random_bank
from sae_pipeline.survey.cases.code_error import labels
from sae_pipeline.survey.cases.code_texts import pairs, prose, sessions
from sae_pipeline.survey.cases.counts import Labelled, f1_of_all, tally
from sae_pipeline.survey.cases.marked import labelled, parse, parse_single
from sae_pipeline.survey.cases.multilingual import reciprocal_ranks, retrieval
from sae_pipeline.survey.cases.python_labels import LABELS, python_spans
from sae_pipeline.survey.cases.reading import from_spans, read, whole_text
from sae_pipeline.survey.cases.selection import aurocs, best, bootstrap, detect, probe_auroc
from sae_pipeline.survey.cases.self_features import surviving
from sae_pipeline.survey.cases.toy_features import toy_texts
from sae_pipeline.survey.thresholds import thresholds
from tests.tiny_steering import make_artefacts

D, F = 8, 40


def planted_sae(thresholds: float = 0.5) -> SparseAutoencoder:
    """Units 0 to 7 read one axis each, the others random directions. Raw space = scaled space."""
    rows = torch.cat(
        [torch.eye(D), torch.nn.functional.normalize(torch.randn(F - D, D, generator=torch.Generator().manual_seed(1)))]
    )
    weights = {
        "W_enc_FD": rows, "b_enc_F": torch.zeros(F), "W_dec_FD": rows, "b_dec_D": torch.zeros(D),
        "threshold_F": torch.full((F,), thresholds), "mean_D": torch.zeros(D),
    }  # fmt: skip
    return SparseAutoencoder(
        weights, {"architecture": "batch_topk", "n_features": F, "d_model": D, "scale": 1.0, "threshold_norm": 1e6}
    )


@pytest.fixture(scope="module")
def made(tiny_model_folder, tmp_path_factory):
    lm = load_language_model(FolderModel(source="folder", path=str(tiny_model_folder)), Hook(after_block=1), dtype="float32")
    return make_artefacts(lm, tmp_path_factory.mktemp("cases") / "tiny")


# --- banks and selection


def test_random_directions_fire_as_often_as_the_feature_of_their_number():
    x_ND = torch.randn(4000, D, generator=torch.Generator().manual_seed(0))
    density_F = np.linspace(0.001, 0.3, F)
    bank = random_bank(planted_sae(), x_ND, density_F, seed=3)
    fired_F = (bank.encode(x_ND) > 0).float().mean(dim=0).numpy()
    np.testing.assert_allclose(fired_F, density_F, atol=1.5 / 4000)
    assert torch.equal(bank.W_enc_FD, random_bank(planted_sae(), x_ND, density_F, seed=3).W_enc_FD)
    with pytest.raises(ValueError, match="no activations"):
        random_bank(planted_sae(), x_ND[:0], density_F, seed=3)


def test_all_columns_at_once_have_the_area_of_each_alone():
    value = np.random.default_rng(0).poisson(0.7, (60, 12)).astype(float)
    value[:, 5] = 0
    positive = np.arange(60) % 3 == 0
    expected = [auroc(value[:, each], positive) for each in range(12)]
    np.testing.assert_allclose(aurocs(value, positive), expected)
    assert aurocs(value, positive)[5] == 0.5 and best(np.array([1.0, 3.0, 3.0]), 2) == [1, 2]


def test_a_planted_unit_is_chosen_on_one_half_and_holds_on_the_other_while_its_control_does_not():
    random = np.random.default_rng(1)
    positive, choose = np.arange(120) % 2 == 1, np.arange(120) < 60
    features, null = (random.random((120, 300)) * (random.random((120, 300)) < 0.3) for _ in range(2))
    features[:, 17] = positive * (1 + random.random(120))
    found = detect(features, null, positive, choose, ~choose, (np.arange(120) // 2).tolist(), seed=0)
    assert found.unit == 17 and found.value.value == 1.0 and found.value.low == 1.0
    # The best of 300 chance units looks good where it was chosen, and only there.
    assert found.chosen_null_score > 0.62 and found.control < 0.7 and found.difference.low > 0.2
    other = random.random((120, 300)) * (random.random((120, 300)) < 0.3)
    nothing = detect(null, other, positive, choose, ~choose, (np.arange(120) // 2).tolist(), seed=0)
    assert nothing.difference.low < 0 < nothing.difference.high


def test_the_bootstrap_keeps_pairs_together_and_classes_apart():
    seen: list[np.ndarray] = []
    groups, positive = [0, 0, 1, 1, 2, 3], np.array([False, True, False, True, False, False])

    def note(at: np.ndarray) -> float:
        seen.append(at)
        return float(positive[at].mean())

    result = bootstrap(groups, note, 0, positive)
    assert result.value == pytest.approx(2 / 6) and result.low == result.high == pytest.approx(2 / 6)
    assert all(list(at).count(0) == list(at).count(1) for at in seen)  # items 0 and 1 are a pair
    assert {(np.isin(at, [4, 5])).sum() for at in seen} == {2}


def test_a_dense_probe_finds_a_direction_and_not_chance():
    random = np.random.default_rng(0)
    x, positive, choose = random.normal(size=(200, 60)), np.arange(200) % 2 == 0, np.arange(200) < 100
    assert abs(probe_auroc(x, positive, choose, ~choose) - 0.5) < 0.15
    x[positive] += 0.5
    assert probe_auroc(x, positive, choose, ~choose) > 0.95


# --- counting


def test_f1_by_counting_is_that_of_the_labels():
    sae, random = planted_sae(), np.random.default_rng(0)
    label = random.random((500, 2)) < (0.2, 0.4)
    x = random.normal(0, 0.05, (500, D))
    x[:, 3] += 2 * label[:, 0]
    x[:, 6] += 2 * (label[:, 1] & (random.random(500) < 0.5))  # half of the second label's tokens
    group = np.arange(500) // 50
    batches = [Labelled(torch.tensor(x[at]).float(), label[at], group[at]) for at in np.array_split(np.arange(500), 3)]
    feature_LF, null_LF, total_L = f1_of_all(Banks(sae, sae), batches, 2)
    assert total_L.tolist() == label.sum(axis=0).tolist() and np.array_equal(feature_LF, null_LF)
    assert best(feature_LF[0])[0] == 3 and feature_LF[0, 3] == 1.0 and best(feature_LF[1])[0] == 6
    fired = sae.encode(torch.tensor(x).float()).numpy() > 0
    for unit in (1, 6, 20):
        precision = (fired[:, unit] & label[:, 1]).sum() / max(fired[:, unit].sum(), 1)
        recall = (fired[:, unit] & label[:, 1]).sum() / label[:, 1].sum()
        assert feature_LF[1, unit] == pytest.approx(2 * precision * recall / max(precision + recall, 1e-12))
    (counted,) = tally([(sae, [3, 6])], batches, 10)
    np.testing.assert_allclose(counted.f1(np.arange(10)), [1.0, feature_LF[1, 6]])
    first = fired[:50, 6], label[:50, 1]
    assert counted.f1(np.array([0]))[1] == pytest.approx(2 * (first[0] & first[1]).sum() / (first[0].sum() + first[1].sum()))


# --- labels


def test_python_labels_are_those_of_the_parser():
    source = (
        'import os\n\n\n@cached\ndef area(width, *, height=2):\n    """Words."""\n'
        '    # a note\n    return os.path(width) * len("x")\n'
    )
    n_characters, spans = python_spans(source + "def broken(:\n    x = (\n")
    assert n_characters == len(source)
    of = {name: [source[start:end] for label, start, end in spans if LABELS[label] == name] for name in LABELS}
    assert of == {
        "parameter": ["width", "height"], "string": ['"x"'], "docstring": ['"""Words."""'], "comment": ["# a note"],
        "keyword": ["import", "def", "return"], "number": ["2"], "function name": ["area"], "class name": [],
        "attribute": ["path"], "call": ["len"], "import": ["import os"], "decorator": ["cached"],
    }  # fmt: skip
    assert python_spans("    )(\n") == (0, [])
    with pytest.raises(ValueError, match="ASCII"):
        python_spans("x = 'é'")


def test_marked_texts_lose_their_marks_and_keep_their_places(made):
    marked = parse('[k|def] f([p|ship], int[] [p|coast]) [s|"a"]', ["k", "p", "s"])
    assert marked.text == 'def f(ship, int[] coast) "a"'
    assert [(label, marked.text[start:end]) for label, start, end in marked.spans] == [
        (0, "def"), (1, "ship"), (1, "coast"), (2, '"a"'),
    ]  # fmt: skip
    texts = [parse_single("the [ship] left the [coast]", 0), parse_single("no boat", 0)]
    (batch,) = labelled(made.lm, SparseAutoencoder.load(made.sae), texts, 1, "test")
    assert len(batch.label_NL) == len(batch.r_ND) == len(batch.group_N)
    assert batch.label_NL[batch.group_N == 0].sum() >= 2 and not batch.label_NL[batch.group_N == 1].any()
    with pytest.raises(ValueError):
        parse("[z|what]", ["k"])


# --- reading


def test_pooled_activations_are_those_of_every_text_alone(made):
    lm, sae = made.lm, SparseAutoencoder.load(made.sae)
    told = [
        "the ship left the harbour in the storm",
        "bread",
        "a judge and a witness spoke of the law and the trial of the sailor",
    ]
    texts = [whole_text(lm, text) for text in told]
    reading = read(lm, Banks(sae, sae), texts, "test")
    for row, text in enumerate(told):
        r_TD = lm.residual(torch.tensor([lm.tokenize(text, bos=True)]))[0].float()
        keep = (r_TD.norm(dim=1) <= sae.config["threshold_norm"]) & (torch.arange(len(r_TD)) > 0)
        f_TF = sae.encode(r_TD[keep])
        np.testing.assert_allclose(reading.features.max_IF[row], f_TF.max(dim=0).values.numpy(), atol=2e-4)
        np.testing.assert_allclose(reading.null.mean_IF[row], f_TF.mean(dim=0).numpy(), atol=2e-4)
        np.testing.assert_allclose(reading.x_ID[row], sae.scaled(r_TD[keep]).mean(dim=0).numpy(), atol=2e-4)


def test_items_within_a_text_have_their_own_tokens(made):
    text = "the ship left the harbour"
    spans = [(4, 8), (18, 25)]
    made_text = from_spans(made.lm, text, spans)
    assert made_text.ids == made.lm.tokenize(text, bos=True) and made_text.item_T[0] == -1 and made_text.n_items == 2
    for item, (start, end) in enumerate(spans):
        words = made.lm.decode([each for each, of in zip(made_text.ids, made_text.item_T, strict=True) if of == item])
        assert words.strip() == text[start:end]


# --- the committed texts


def run_session(text: str) -> str:
    """Execute code or an interactive session; what it prints."""
    if text.startswith(">>>"):
        test = doctest.DocTestParser().get_doctest(text, {}, "session", None, 0)
        namespace: dict = {}
        with redirect_stdout(io.StringIO()) as out:
            for example in test.examples:
                exec(compile(example.source, "session", "single"), namespace)
        return out.getvalue()
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(text, "program", "exec"), {})
    return out.getvalue()


def test_clean_python_runs_and_buggy_python_fails():
    made_pairs = pairs("python")
    assert len(made_pairs) >= 100 and len({pair.kind for pair in made_pairs}) == 6
    for pair in made_pairs:
        run_session(pair.clean)
        with pytest.raises(Exception):  # noqa: B017 - of whatever kind: name, type, index, division, assertion
            run_session(pair.buggy)


def test_sessions_print_what_they_are_said_to_print():
    made_pairs = sessions()
    assert len(made_pairs) >= 30
    for pair in made_pairs:
        assert run_session(pair.clean).strip() == pair.output
        with pytest.raises(NameError, match=pair.typo):
            run_session(pair.buggy)


def test_pairs_of_one_template_are_resampled_together():
    python = pairs("python")
    _, half_I, template_I = labels(python)
    assert template_I[::2] == template_I[1::2] == [pair.template for pair in python]
    halves = {half: {name for name, of in zip(template_I, half_I, strict=True) if of == half} for half in ("choose", "report")}
    assert len(halves["choose"]) == len(halves["report"]) == 12 and not halves["choose"] & halves["report"]
    assert len({pair.template for pair in prose()}) == 6 and len({pair.template for pair in sessions()}) == 4
    # Units that tell one template's errors and no other's: by pairs their area looks certain, by templates it does not.
    report = half_I == "report"
    names = [name for name, of in zip(template_I, report, strict=True) if of]
    positive = np.arange(len(names)) % 2 == 1
    value = positive * (np.array(names) == names[0]).astype(float)
    by_template, _, _ = selection.tested(value, np.zeros(len(value)), positive, names, 0)
    by_pair, _, _ = selection.tested(value, np.zeros(len(value)), positive, [place // 2 for place in range(len(names))], 0)
    assert by_template.value == by_pair.value > 0.5
    assert by_pair.low > 0.5 and by_template.low == 0.5


def test_halves_share_no_words_and_pairs_differ():
    for language in ("python", "c", "scheme"):
        made_pairs = pairs(language)
        assert all(pair.clean != pair.buggy and "$" not in pair.clean + pair.buggy for pair in made_pairs)
        names = {half: {pair.name for pair in made_pairs if pair.half == half} for half in ("choose", "report")}
        assert names["choose"] and names["report"] and not names["choose"] & names["report"]
        assert len({(pair.clean, pair.buggy) for pair in made_pairs}) == len(made_pairs)
    assert all(pair.name in pair.clean and pair.typo in pair.buggy for pair in prose())
    texts = toy_texts()
    assert not {each.text for _, each in texts["choose"]} & {each.text for _, each in texts["report"]}
    assert all(m + n != m * n and max(m + n, m * n) < 10 for m, n in prompts.load("functions")["numbers"])
    told = prompts.load("parallel")
    assert len(told["languages"]) >= 6 and len(told["concepts"]) >= 20
    assert {len(set(sentences)) for sentences in told["concepts"].values()} == {len(told["languages"])}


# --- single cases


def test_a_feature_that_keeps_its_concept_in_other_languages_leads_there():
    random = np.random.default_rng(0)
    mean = random.random((6, 3, 50)) * (random.random((6, 3, 50)) < 0.3)
    mean[:, :, 49] = 0.8  # fires on everything: never chosen
    for concept in range(6):
        mean[:, :, concept] = 0.0
        mean[concept, :, concept] = 2.0
        mean[concept, 2, concept] = 0.0 if concept == 5 else 2.0  # lost in the second other language
    chosen, _, ranks = reciprocal_ranks(mean)
    assert chosen.tolist() == list(range(6))
    own = np.einsum("ccg->cg", ranks)
    assert own[:, 0].tolist() == [1.0] * 6 and own[:5, 1].tolist() == [1.0] * 5 and own[5, 1] == 1 / 50
    assert ranks[0, 1].max() < 0.1  # another concept's feature
    x = random.normal(size=(6, 1, 9)) + 0.05 * random.normal(size=(6, 3, 9)) + random.normal(size=(1, 3, 9)) * 3
    assert retrieval(x) == 1.0 and thresholds().multilingual_carried < 0.5


def test_self_features_must_hold_on_both_halves():
    about_self, choose = np.repeat([True, False], 8), np.tile([True, False], 8)
    fires = np.zeros((16, 4), bool)
    fires[:8, 0] = True  # every question about the model
    fires[:, 1] = True  # every question
    fires[about_self & choose, 2] = True  # only those it was chosen on
    passed, survived = surviving(fires, about_self, choose)
    assert passed.tolist() == [True, False, True, False] and survived.tolist() == [True, False, False, False]
