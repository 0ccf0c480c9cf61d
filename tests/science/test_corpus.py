"""Documents, split, packing and the counts of what was dropped, against independent computations."""

import json

import numpy as np
import polars as pl
import pytest

from sae_pipeline.corpus.build import build_corpus
from sae_pipeline.corpus.pack import grams, pack
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.corpus.sources import read_documents
from sae_pipeline.errors import UserError
from sae_pipeline.language_model.tokens import load_tokenizer
from sae_pipeline.study import FolderModel
from tests.science.corpus_inputs import corpus_of, local, write_jsonl
from tests.tiny_models import save_tiny_llama


@pytest.fixture(scope="module")
def tokens(tiny_model_folder):
    return load_tokenizer(FolderModel(source="folder", path=str(tiny_model_folder)))


@pytest.fixture(scope="module")
def built(tiny_study, tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    outcome = build_corpus(tiny_study.corpus, tokens, folder)
    return CorpusReader.open(folder), outcome


def test_no_block_mixes_splits_and_no_document_is_in_both(built, tiny_study):
    corpus, _ = built
    split_of_doc = corpus.documents["split"].to_numpy()
    docs = {False: set(), True: set()}
    for held_out, doc_ids in zip(corpus.held_out_B, corpus.doc_ids_BT, strict=True):
        docs[bool(held_out)] |= set(doc_ids[doc_ids >= 0].tolist())
    assert docs[False] and docs[True] and not docs[False] & docs[True]
    for held_out, ids in docs.items():
        assert set(split_of_doc[list(ids)]) == {"held_out" if held_out else "train"}
    for source in tiny_study.corpus.sources:
        part = corpus.documents.filter(pl.col("source") == source.label)
        assert (part["split"] == "held_out").sum() == round(tiny_study.corpus.held_out * part.height)


def test_blocks_are_the_documents_in_a_row(built, tokens, tiny_study):
    """Undo the packing: every block starts with BOS, and the rest is documents, each followed by EOS."""
    corpus, outcome = built
    assert (corpus.token_ids_BT[:, 0] == tokens.bos_id).all() and (corpus.doc_ids_BT[:, 0] == -1).all()
    for held_out in (False, True):
        ids = corpus.token_ids_BT[corpus.held_out_B == held_out][:, 1:].flatten()
        docs = corpus.doc_ids_BT[corpus.held_out_B == held_out][:, 1:].flatten()
        ends = [*np.flatnonzero(np.diff(docs)), None]
        start = 0
        for end in ends[:-1]:  # the last document may be cut by the block
            text = corpus.documents["text"][int(docs[start])]
            assert ids[start : end + 1].tolist() == [*tokens.tokenize(text, bos=False), tokens.eos_id]
            start = end + 1
        assert len(set(docs[[0, *[end + 1 for end in ends[:-1]]]])) == len(ends)  # each document once
    budget = sum(source.tokens for source in tiny_study.corpus.sources)
    assert corpus.documents["n_tokens"].sum() == corpus.n_blocks * (corpus.context - 1)
    assert (
        budget - 2 * len(tiny_study.corpus.sources)
        <= corpus.documents["n_tokens"].sum() + outcome.metadata["n_tokens_in_incomplete_blocks"]
        <= budget
    )


def test_documents_are_shuffled_over_sources(built):
    corpus, _ = built
    docs = corpus.doc_ids_BT[~corpus.held_out_B].flatten()
    order = [int(doc) for i, doc in enumerate(docs) if doc >= 0 and doc not in docs[:i]]
    assert order != sorted(order)
    assert len({corpus.source_of_doc[doc] for doc in order[: len(order) // 3]}) == 2


def test_same_seed_same_bytes_other_seed_other_split(tiny_study, tokens, tmp_path):
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        folder.mkdir()
        build_corpus(tiny_study.corpus.model_copy(update={"seed": seed}), tokens, folder)
    files = sorted(path.name for path in folders[0].iterdir())
    assert files == ["blocks.parquet", "corpus_sources.parquet", "documents.parquet", "vocabulary.parquet"]
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in files)
    assert (folders[0] / "blocks.parquet").read_bytes() != (folders[2] / "blocks.parquet").read_bytes()


def test_pack_without_bos():
    ids, docs, cut = pack([(4, [10, 11, 12]), (7, [20, 21])], context=3, bos_id=None, eos_id=2)
    assert ids.tolist() == [[10, 11, 12], [2, 20, 21]] and docs.tolist() == [[4, 4, 4], [4, 7, 7]] and cut == 1


def test_13_grams_against_sets():
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 2, (6, 30)).astype(np.int32)
    docs = np.sort(generator.integers(0, 3, (6, 30)), axis=1).astype(np.int32)
    docs[:, 0] = -1
    expected = [
        (tuple(ids[b, t : t + 13]), docs[b, t])
        for b in range(6)
        for t in range(18)
        if len(set(docs[b, t : t + 13])) == 1 and docs[b, t] >= 0
    ]
    hashes, of_doc = grams(ids, docs)
    assert of_doc.tolist() == [doc for _, doc in expected]
    assert len(set(hashes.tolist())) == len({gram for gram, _ in expected})


def test_held_out_share_of_train_text_is_measured(tokens, tmp_path):
    """Half of every text is the same sentence, so held-out 13-grams recur in train; texts of their own share none."""
    words = np.random.default_rng(0).choice([f"w{i}" for i in range(400)], (40, 30))
    common = " ".join(f"common{i}" for i in range(30))
    same = write_jsonl(tmp_path / "same.jsonl", [f"{' '.join(row)} {common}" for row in words])
    own = write_jsonl(tmp_path / "own.jsonl", [" ".join(row[::-1]) for row in words])
    build_corpus(corpus_of(local(same, 6000), local(own, 2000)), tokens, tmp_path)
    share = {
        row["source"]: row["held_out_13gram_share"]
        for row in pl.read_parquet(tmp_path / "corpus_sources.parquet").iter_rows(named=True)
        if row["split"] == "held_out"
    }
    assert share["same"] > 0.4 and share["own"] < 0.1


# --- what is dropped, and what is refused


def test_empty_undecodable_and_duplicate_documents_are_counted(tokens, tmp_path):
    path = tmp_path / "mixed.jsonl"
    good = [f"Document number {i} speaks of the harbour and the sea." for i in range(20)]
    rows = [json.dumps({"text": text}) for text in [*good, "", "  \n ", None, good[3].upper(), good[4].replace(" ", "  ")]]
    path.write_bytes("\n".join(rows).encode() + b'\n{"text": "broken \xff\xfe bytes"}\n')
    source = local(path, 200)
    build_corpus(corpus_of(source), tokens, tmp_path)
    documents = pl.read_parquet(tmp_path / "documents.parquet")
    texts = [" ".join(text.split()).casefold() for text in documents["text"][:-1]]  # the last one is cut to the budget
    assert len(set(texts)) == len(texts) and set(texts) <= {text.casefold() for text in good}
    everything = list(read_documents(source, 0))
    assert sum(document.text is None for document in everything) == 1 and len(everything) == 26
    with pytest.raises(
        UserError, match=r"corpus.sources.mixed.tokens: 9,000 is more than the source holds: [\d,]+ tokens in 20 documents"
    ):
        build_corpus(corpus_of(local(path, 9000)), tokens, tmp_path)


def test_drop_counts_over_a_whole_source(tokens, tmp_path):
    good = [f"Document number {i} speaks of the harbour." for i in range(8)]
    path = write_jsonl(tmp_path / "all.jsonl", [*good, "", "", good[0], good[1], good[1], "bad � text"])
    n_tokens = sum(len(tokens.tokenize(text, bos=False)) + 1 for text in good)
    build_corpus(corpus_of(local(path, n_tokens)), tokens, tmp_path)
    train, held_out = pl.read_parquet(tmp_path / "corpus_sources.parquet").sort("split", descending=True).iter_rows(named=True)
    # The last documents of the shuffled order need not be reached: no more is read than the budget needs.
    assert train["n_documents"] + held_out["n_documents"] == 8
    assert train["n_dropped_empty"] <= 2 and train["n_dropped_duplicate"] <= 3 and train["n_dropped_undecodable"] <= 1
    assert train["n_dropped_empty"] + train["n_dropped_duplicate"] >= 1
    assert held_out["n_dropped_empty"] == held_out["n_dropped_duplicate"] == 0


def test_a_source_without_text_is_refused(tokens, tmp_path):
    path = write_jsonl(tmp_path / "void.jsonl", ["", " ", None])
    with pytest.raises(UserError, match=r"corpus.sources.void: holds no usable document \(3 empty"):
        build_corpus(corpus_of(local(path)), tokens, tmp_path)


def test_too_short_a_text_for_one_block_is_refused(tokens, tmp_path):
    path = write_jsonl(tmp_path / "short.jsonl", ["one", "two", "three"])
    with pytest.raises(UserError, match=r"corpus.context: 16 tokens per block, but the train documents hold only \d+ tokens"):
        build_corpus(corpus_of(local(path, 9)), tokens, tmp_path)


def test_tokenizer_without_bos(tmp_path):
    folder = save_tiny_llama(tmp_path / "model", bos=False)
    tokens = load_tokenizer(FolderModel(source="folder", path=str(folder)))
    path = write_jsonl(tmp_path / "texts.jsonl", [f"Story {i} of an island and its harbour in the sea." for i in range(20)])
    with pytest.raises(UserError, match=r"corpus.bos: prepend, but the tokenizer .* has no BOS token. Set corpus.bos: none"):
        build_corpus(corpus_of(local(path)), tokens, tmp_path)
    build_corpus(corpus_of(local(path), bos="none"), tokens, tmp_path)
    assert (CorpusReader.open(tmp_path).doc_ids_BT >= 0).all()


def test_max_tokens_per_document(tokens, tmp_path):
    path = write_jsonl(tmp_path / "long.jsonl", [f"island {i} " * 50 for i in range(12)])
    build_corpus(corpus_of(local(path, 240), max_tokens_per_document=30), tokens, tmp_path)
    documents = pl.read_parquet(tmp_path / "documents.parquet")
    assert documents.filter(pl.col("n_tokens") == 31).height >= 5  # 30 and EOS; the last of each split may be cut by its block
    assert documents["n_tokens"].max() == 31
    assert (documents["text"].str.len_chars() < 400).all()


def test_vocabulary_reads_tokens_alone(built, tokens):
    corpus, _ = built
    assert corpus.vocabulary.height == len(corpus.token_text)
    for token_id in tokens.tokenize("Harbour près 안", bos=False):
        text = corpus.token_text[token_id]
        expected = tokens.tokenizer.decode([token_id])
        assert text == expected if "�" not in expected else text.startswith("\\x")
    row = corpus.vocabulary.row(tokens.bos_id, named=True)
    assert row["is_special"] and not row["starts_word"]
    (space_a,) = tokens.tokenize(" a", bos=False)
    assert corpus.vocabulary.row(space_a, named=True) == {
        "token_id": space_a,
        "text": " a",
        "is_special": False,
        "starts_word": True,
    }


def test_tokenize_never_doubles_bos(tokens):
    ids = tokens.tokenize("harbour", bos=False)
    assert tokens.tokenize("harbour", bos=True) == [tokens.bos_id, *ids]
    assert tokens.tokenize("<s>harbour", bos=True) == [tokens.bos_id, *ids]
    assert tokens.tokenize("", bos=True) == [tokens.bos_id]
    chat = tokens.chat("hello")
    assert chat.count(tokens.bos_id) == 1 and tokens.tokenizer.decode(chat).endswith("assistant\n")


def test_chat_without_template_is_a_completion(tmp_path):
    tokens = load_tokenizer(FolderModel(source="folder", path=str(save_tiny_llama(tmp_path, chat=False))))
    assert not tokens.has_chat_template
    assert tokens.chat("The island") == tokens.tokenize("The island", bos=True)


def test_sentencepiece_pieces():
    from sae_pipeline.language_model.tokens import _sentencepiece_text

    assert [_sentencepiece_text(piece) for piece in ("▁island", "<0xE2>", "<0x41>", "s")] == [" island", "\\xe2", "A", "s"]
