"""The committed page of study keys is what the code would write today, and leaves no key out."""

from collections.abc import Iterator
from typing import Any, get_args

from sae_pipeline.study import Section, Study
from sae_pipeline.study_docs import PAGE, SECTIONS, render


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    """The sections that a type is made of, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
        for field in annotation.model_fields.values():
            yield from sections_in(field.annotation)
    for part in get_args(annotation):
        yield from sections_in(part)


def test_page_equals_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m sae_pipeline.study_docs"


def test_every_section_stands_on_the_page() -> None:
    assert set(sections_in(Study)) - {section for _, section in SECTIONS} == set()
