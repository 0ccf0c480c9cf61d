"""The language model as an injected resource: loaded when first needed, then kept for the whole process.

A run of the command line executes every step in one process, so the model is read from disk once for harvest, metrics and
steering. The web UI starts a process per run and pays for loading in each.
"""

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from sae_pipeline.device import Device
    from sae_pipeline.language_model.load import LanguageModel as LoadedModel
    from sae_pipeline.study import Study

_loaded: dict[tuple[str, ...], "LoadedModel"] = {}


class LanguageModel(dg.ConfigurableResource):
    """The study's model, truncated at its hook."""

    def load(self, study: "Study", device: "Device", dtype: str | None = None) -> "LoadedModel":
        """The model on `device`. Raises `UserError` when it cannot be loaded or the hook does not fit it.

        `dtype`: instead of the study's, for measurements that its rounding would drown.
        """
        from sae_pipeline.inputs import model_digest
        from sae_pipeline.language_model.load import load_language_model

        dtype = dtype or study.model.dtype
        key = (study.model.model_dump_json(), study.hook.model_dump_json(), model_digest(study), device.name, dtype)
        if key not in _loaded:
            _loaded.clear()  # one model at a time: two would not fit a small GPU
            _loaded[key] = load_language_model(study.model, study.hook, device=device.name, dtype=dtype)
        return _loaded[key]


def unload() -> None:
    """Forget the loaded model, so that its memory can be used again."""
    _loaded.clear()
