"""Where a model comes from: arguments for `from_pretrained`, and what goes wrong there put into one sentence.

Only configuration files are read here, no weights: the pre-flight uses `check_hook` before anything long starts.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import lru_cache
from io import StringIO
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from sae_pipeline.errors import UserError
from sae_pipeline.inputs import locate_model
from sae_pipeline.language_model.blocks import context_limit
from sae_pipeline.study import Hook, HubModel, Model, PackageModel


def pretrained_arguments(model: Model) -> tuple[str, dict[str, Any]]:
    """(name or folder, keyword arguments) for any `from_pretrained`. Raises `UserError` when a file is missing."""
    path = locate_model(model)
    if isinstance(model, HubModel):
        return model.id, {"revision": model.revision} if model.revision else {}
    assert path is not None
    if isinstance(model, PackageModel):
        return str(path.parent), {"gguf_file": path.name}
    return str(path), {}


def label(model: Model) -> str:
    """The model in words, for messages."""
    return model.id if isinstance(model, HubModel) else str(locate_model(model))


@contextmanager
def loading(model: Model) -> Iterator[None]:
    """Turn the loading errors of transformers into a `UserError`, and keep its bars off the terminal."""
    field = {"hub": "model.id", "folder": "model.path", "package": "model.file"}[model.source]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        # The bar of the GGUF reader obeys no setting.
        with redirect_stderr(StringIO()) if model.source == "package" else nullcontext():
            yield
    except (OSError, ValueError, KeyError) as error:
        causes = _chain(error)
        if any(type(cause).__name__ == "GatedRepoError" for cause in causes):
            what = f"{label(model)} is gated: its licence must be accepted first"
            mend = f"Accept it at https://huggingface.co/{label(model)}, then set HF_TOKEN (or run `hf auth login`)."
        elif isinstance(model, HubModel):
            what = f"{label(model)} cannot be loaded from the Hugging Face hub ({_first_line(error)})"
            mend = (
                "Check the id, the revision and the connection; a private model needs HF_TOKEN. A downloaded folder also works."
            )
        else:
            what = f"{label(model)} is not a causal language model that transformers can load ({_first_line(error)})"
            mend = "Give a folder made by `save_pretrained` (model and tokenizer), or a GGUF file of a known architecture."
        raise UserError(field, what, mend) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def load_config(model: Model) -> PreTrainedConfig:
    """The model's configuration. A GGUF header takes seconds to parse, so it is read once per process."""
    name, arguments = pretrained_arguments(model)
    path = locate_model(model)
    changed = path.stat().st_mtime_ns if path else 0
    with loading(model):
        return _load_config(name, tuple(sorted(arguments.items())), changed)


@lru_cache(maxsize=8)
def _load_config(name: str, arguments: tuple[tuple[str, Any], ...], changed: int) -> PreTrainedConfig:
    return AutoConfig.from_pretrained(name, **dict(arguments))


def takes_images(model: Model) -> bool:
    """Whether the model's configuration declares an image encoder."""
    return getattr(load_config(model), "vision_config", None) is not None


def n_blocks_of(config: PreTrainedConfig) -> int:
    """Number of decoder blocks that a configuration declares."""
    text = config.get_text_config(decoder=True)
    n_blocks = getattr(text, "num_hidden_layers", None)
    if not isinstance(n_blocks, int):
        raise UserError(
            "model", f"architecture {config.model_type!r} declares no number of blocks (looked for num_hidden_layers, n_layer)",
            "Use a decoder-only causal language model.",
        )  # fmt: skip
    return n_blocks


def check_hook(model: Model, hook: Hook, context: int | None = None) -> PreTrainedConfig:
    """Raise `UserError` when the hook is past the last block, or `context` past the model's; reads the configuration only."""
    config = load_config(model)
    last = n_blocks_of(config) - 1
    if hook.after_block > last:
        raise UserError(
            "hook.after_block", f"{hook.after_block} is past the last block of {label(model)}, which has blocks 0 to {last}",
            f"Choose 0 to {last}; the paper's middle layer would be {last // 2}.",
        )  # fmt: skip
    limit = context_limit(config)
    if context is not None and limit is not None and context > limit:
        raise UserError("corpus.context", f"{context} is more than the {limit} tokens that {label(model)} can read", "Lower it.")
    return config


def _chain(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
