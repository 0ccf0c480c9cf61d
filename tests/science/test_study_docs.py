"""The committed page of study keys is what the code would write today."""

from sae_pipeline.study_docs import PAGE, render


def test_page_equals_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m sae_pipeline.study_docs"
