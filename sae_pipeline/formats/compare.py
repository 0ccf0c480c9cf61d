"""What a file says about itself beside what the study does. Nothing is mended silently: every row is shown.

A difference need not be a mistake (a base model's SAE on its instruct twin), so it is reported, not refused; only a width that
does not fit is an error. The sample that `sae_pipeline.formats.build` measures tells how much it matters.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from sae_pipeline.formats.hooks import hook_of
from sae_pipeline.formats.raw_sae import Origin, RawSae
from sae_pipeline.study import Study
from sae_pipeline.study_inputs import FolderModel, Hook, HubModel

Verdict = Literal["same", "differs", "not recorded", "kept"]
OTHER_NAMES = {"gpt2-small": "gpt2"}
NORMED_MLP = re.compile(r"gemma-?[23]|olmo-?2", re.IGNORECASE)
TOKEN_NORMS = {
    "none": "one scale for all tokens, folded into the weights",
    "layer_norm": "every token by its own mean and standard deviation",
    "constant_norm": "every token to the norm sqrt(D)",
}


class Row(NamedTuple):
    """One thing that matters for what an SAE computes. `verdict` kept: the file's way is kept in use."""

    what: str
    file: str
    study: str
    verdict: Verdict


def compare(raw: RawSae, study: Study) -> list[Row]:
    """Model, hook, context, BOS, normalisation, number format."""
    origin, hook = raw.origin, hook_of(raw.origin.hook) if raw.origin.hook else None
    site = _site(origin, hook)
    bos = None if origin.bos is None else "prepend" if origin.bos else "none"
    rows = [
        _row("model", origin.model, model_name(study), origin.model and _plain(origin.model) == _plain(model_name(study))),
        _row("hook", site, _place(study.hook), hook == study.hook),
        _row("context", origin.context, study.corpus.context, origin.context == study.corpus.context),
        _row("bos", bos, study.corpus.bos, bos == study.corpus.bos),
        Row("normalisation", TOKEN_NORMS[raw.token_norm], TOKEN_NORMS["none"], "same" if raw.token_norm == "none" else "kept"),
        Row("number format", origin.dtype, "float32", "same" if origin.dtype == "float32" else "kept"),
    ]  # fmt: skip
    if study.hook.site == "mlp_output" and NORMED_MLP.search(model_name(study)) and hook == study.hook:
        text = "the MLP's output after the block's own norm, as TransformerLens and Gemma Scope read it"
        rows[1] = Row("hook", text, "the MLP module's output, before that norm", "differs")
    return rows


def differences(rows: list[Row]) -> list[str]:
    """The rows that differ, each as a sentence."""
    return [f"{row.what}: the file has {row.file}, the study {row.study}" for row in rows if row.verdict == "differs"]


def model_name(study: Study) -> str:
    """The study's model as people call it."""
    model = study.model
    if isinstance(model, HubModel):
        return model.id
    return model.path if isinstance(model, FolderModel) else model.file


def as_table(rows: list[Row]) -> list[Mapping[str, Any]]:
    """Rows for JSON."""
    return [row._asdict() for row in rows]


def _row(what: str, file: Any, study: Any, same: Any) -> Row:
    if file is None:
        return Row(what, "not recorded", str(study), "not recorded")
    return Row(what, str(file), str(study), "same" if same else "differs")


def _site(origin: Origin, hook: Hook | None) -> str | None:
    if origin.hook is None:
        return None
    return f"{origin.hook} ({_place(hook)})" if hook else f"{origin.hook} (a place that a study cannot name)"


def _place(hook: Hook) -> str:
    return f"{'residual' if hook.site == 'residual' else 'MLP output'} after block {hook.after_block}"


def _plain(name: str) -> str:
    """Model names without owner, file ending and case."""
    last = re.sub(r"(\.[qQfF]\d\w*)?\.gguf$", "", name.rstrip("/").rpartition("/")[2]).lower()
    return OTHER_NAMES.get(last, last)
