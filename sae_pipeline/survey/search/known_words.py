"""Words whose feature is known, and whether each way of searching names it among its first (row 57).

Known: the feature of largest F1 on the word's training tokens, if that is large enough (`thresholds.yaml` says from where on, and
how many places are the first). No method sees that rule, and the rule sees none of the templates. Only words of a single token
(with the space before it) take part, each as it is written or with a capital, whichever the training text has more often.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from sae_pipeline.activations.reader import ActivationReader
from sae_pipeline.corpus.reader import CorpusReader
from sae_pipeline.language_model.model import LanguageModel
from sae_pipeline.survey.search.banks import Bank
from sae_pipeline.survey.search.concepts import Templates, Words
from sae_pipeline.survey.search.methods import attribution, geometry, prompt_sets, single_prompt
from sae_pipeline.survey.search.reading import Read, means, read_texts, strongest
from sae_pipeline.survey.thresholds import thresholds

SEARCHES = ("single_prompt", "prompt_sets", "geometry", "attribution")


@dataclass(frozen=True)
class KnownWord:
    """A word and its feature. `rank`: place of every known feature by each method, 1 is the first; own feature at `feature`."""

    word: str
    feature: int
    f1: float
    n_tokens: int
    score_F: dict[str, np.ndarray] = field(default_factory=dict, compare=False)

    def hit(self, method: str, feature: int) -> bool:
        """Whether `feature` is among the first, with a positive score."""
        score_F = self.score_F[method]
        return bool(score_F[feature] > 0 and (score_F > score_F[feature]).sum() < thresholds().known_word_places)


def known_words(
    lm: LanguageModel, words: Words, corpus: CorpusReader, reader: ActivationReader, feature_stats: Path
) -> list[KnownWord]:
    """Words with a feature of their own, in the order of the files."""
    forms = dict.fromkeys(form for word in words.candidates for form in (word, word.capitalize()))
    token_of = {form: lm.tokenize(f" {form}", bos=False) for form in forms}
    single = {form: ids[0] for form, ids in token_of.items() if len(ids) == 1}
    train_N = reader.token_index("train").numpy()
    id_N = corpus.token_ids_BT.reshape(-1)[train_N]
    wanted = np.isin(id_N, list(single.values()))
    tokens = pl.DataFrame({"token_index": train_N[wanted], "token_id": id_N[wanted]})
    n_of = dict(tokens.group_by("token_id").len().iter_rows())
    active = pl.scan_parquet(feature_stats / "activations_train.parquet").select("feature", "token_index")
    both = (
        active.join(tokens.lazy(), on="token_index", how="inner").group_by("token_id", "feature").len()
        .collect(engine="streaming")
    )  # fmt: skip
    totals = pl.read_parquet(feature_stats / "features.parquet", columns=["feature", "n_active_train"])
    scored = both.join(totals, on="feature").with_columns(
        (2 * pl.col("len") / (pl.col("n_active_train") + pl.col("token_id").replace_strict(n_of))).alias("f1")
    )
    best = {row[0]: row[1:] for row in scored.sort("f1", "feature").select("token_id", "feature", "f1").iter_rows()}
    commonest: dict[str, str] = {}
    for form in sorted(single, key=lambda form: n_of.get(single[form], 0)):
        commonest[form.lower()] = form
    return [
        KnownWord(form, best[token_id][0], best[token_id][1], n_of[token_id])
        for form, token_id in single.items()
        if commonest[form.lower()] == form
        and token_id in best and best[token_id][1] >= thresholds().known_word_f1
        and n_of[token_id] >= thresholds().known_word_min_tokens
    ]  # fmt: skip


def searched_word(
    lm: LanguageModel, bank: Bank, known: list[KnownWord], place: int, templates: Templates, negatives: list[Read], bos: bool
) -> KnownWord:
    """Word `place` of the known ones with every unit's score by each method; attribution compares it with the next of them.

    `negatives`: the templates' texts without any word.
    """
    each, other = known[place], known[(place + 1) % len(known)].word
    one = read_texts(lm, bank, [templates.single.format(word=each.word)], bos)[0]
    reads = read_texts(lm, bank, [text.format(word=each.word) for text in templates.sets], bos)
    positive_I = np.repeat([True, False], [len(reads), len(negatives)])
    last_ID = np.stack([bank.sae.scaled(read.r_TD[-1:]).cpu().numpy()[0] for read in reads])
    text = templates.attribution.format(word=each.word, other=other)
    scores = {
        "single_prompt": single_prompt(bank.activations(one.r_TD[-1:])[0].numpy()),
        "prompt_sets": prompt_sets(np.concatenate([strongest(bank, reads), strongest(bank, negatives)]), positive_I),
        "geometry": geometry(bank.rows_FD, np.concatenate([last_ID, means(bank, negatives)]), positive_I),
    }
    if other != each.word:
        scores["attribution"] = attribution(lm, [bank], [text], f" {each.word}", f" {other}", bos, question="")[0]
    return KnownWord(each.word, each.feature, each.f1, each.n_tokens, scores)


def word_rows(searched: KnownWord, known: list[KnownWord], size: int) -> list[dict]:
    """Rows of `concept_search_words` for one word; `others_found`: share of the other words' features found in its place."""
    rivals = sorted({other.feature for other in known} - {searched.feature})
    return [
        {
            "size": size, "word": searched.word, "feature": searched.feature, "f1": searched.f1, "n_tokens": searched.n_tokens,
            "method": method, "rank": int((score_F > score_F[searched.feature]).sum()) + 1,
            "found": searched.hit(method, searched.feature),
            "others_found": float(np.mean([searched.hit(method, rival) for rival in rivals])) if rivals else 0.0,
        }
        for method, score_F in searched.score_F.items()
    ]  # fmt: skip
