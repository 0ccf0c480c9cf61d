"""Token budgets that no tokenizer could fill, found before anything is computed."""

from sae_pipeline.corpus.sources import read_documents
from sae_pipeline.errors import UserError
from sae_pipeline.study import Corpus, HubSource

EXTRA_TOKENS = 2  # per document: the separator behind it, and the space that some tokenizers put before it


def refuse_hopeless_budgets(corpus: Corpus) -> None:
    """Read each source until it has as many bytes as its budget has tokens: a token stands for one byte or more.

    Raises `UserError` when the bytes run out first. What lies between bytes and tokens shows only when the corpus is tokenised;
    a hub data set is left to that, and so is a source without any text.
    """
    for source in corpus.sources:
        if isinstance(source, HubSource):
            continue
        n_most = 0
        for document in read_documents(source, corpus.seed):
            n_bytes = len((document.text or "").strip().encode(errors="replace"))
            n_most += min(corpus.max_tokens_per_document, n_bytes + EXTRA_TOKENS) if n_bytes else 0
            if n_most >= source.tokens:
                break
        if 0 < n_most < source.tokens:
            raise UserError(
                f"corpus.sources.{source.label}.tokens",
                f"{source.tokens:,} is more than the source holds: {n_most:,} at the very most",
                "Lower the budget or raise corpus.max_tokens_per_document.",
            )
