"""Tables of the stage `concept_search`."""

import pandera.polars as pa
import polars as pl

from sae_pipeline.tables.columns import column, count, feature, one_of, share, size, table

METHODS = ("single_prompt", "prompt_sets", "geometry", "attribution", "classifier")
FOUND = ("found", "not found", "not testable")
_METHOD = column(pl.String, "How it was looked for", one_of(METHODS))


def _difference(description: str) -> pa.Column:
    return column(pl.Float64, description, pa.Check.in_range(-1, 1))


SEARCH_TABLES = (
    table(
        "concept_search_results",
        "The best feature for a concept by each way of searching, judged on held-out texts beside random directions.",
        {
            "size": size(),
            "concept": column(pl.String, "Name, as in its file"),
            "family": column(pl.String, "Family that the concept stands for"),
            "method": _METHOD,
            "is_choice": column(pl.Boolean, "Whether this method separates the searched texts best; the verdict is its verdict"),
            "feature": feature(),
            "auroc_search": share("AUROC on the texts that were searched with"),
            "auroc": share("AUROC on the held-out texts"),
            "low": share("Lower end of its 95 % interval over texts"),
            "high": share("Upper end"),
            "null_method": column(pl.String, "The method that random directions choose on the searched texts", one_of(METHODS)),
            "null_auroc": share("Held-out AUROC of the best of as many random directions by that method"),
            "difference_low": _difference("Lower end of the 95 % interval of AUROC minus that of the null"),
            "difference_high": _difference("Upper end"),
            "probe_auroc": share("Held-out AUROC of a dense probe of the residual: what the model carries at all"),
            "verdict": column(
                pl.String, "found: AUROC of .75 or more and better than the null; not testable: the probe fails", one_of(FOUND)
            ),
            "n_held_out": count("Held-out texts"),
            "note": column(pl.String, "What a verdict does not say"),
        },
        file="concept_search/concept_search_results.parquet", key=("size", "concept", "method"),
    ),
    table(
        "concept_search_words",
        "Words with a known feature (largest F1 on training tokens), and where each way of searching ranks it.",
        {
            "size": size(),
            "word": column(pl.String, "The word"),
            "feature": feature(),
            "f1": share("F1 of the feature against the word's tokens, training text"),
            "n_tokens": count("Training tokens of the word"),
            "method": _METHOD,
            "rank": column(pl.Int32, "Rank of the known feature, 1 is the first", pa.Check.ge(1)),
            "found": column(pl.Boolean, "Among the first ten"),
        },
        file="concept_search/concept_search_words.parquet", key=("size", "word", "method"),
    ),
    table(
        "concept_search_probes",
        "Classifiers over k units on data sets from the corpus itself, beside a dense probe of the residual.",
        {
            "size": size(),
            "name": column(pl.String, "The question about a token"),
            "k": column(pl.Int32, "Units that the classifier reads", pa.Check.ge(1)),
            "features": share("Held-out accuracy of k features"),
            "directions": share("Held-out accuracy of k random directions, chosen the same way"),
            "dense": share("Held-out accuracy of the dense probe"),
            "n_test": count("Held-out tokens, half of them positive"),
        },
        file="concept_search/concept_search_probes.parquet", key=("size", "name", "k"),
    ),
)  # fmt: skip
