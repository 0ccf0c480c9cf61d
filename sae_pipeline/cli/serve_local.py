"""`sae-pipeline serve-local`: the study's GGUF model as a judge on this machine."""

import signal
from pathlib import Path

from sae_pipeline.errors import UserError
from sae_pipeline.inputs import model_path
from sae_pipeline.judge.serve import serve
from sae_pipeline.study import load_study


def serve_local_command(study_file: Path, model_file: Path | None, port: int, threads: int) -> None:
    """Serve until Ctrl-C. Raises `UserError` when there is nothing to serve."""
    path = model_file or model_path(load_study(study_file))
    if path is None or path.suffix != ".gguf":
        raise UserError("serve-local", "the study's model is no GGUF file", "Give one with --model.")
    local = serve(path, port, threads)
    print(f"Messages API at {local.url}   (Ctrl-C stops it)\nIn a study:")
    print(f"  judge: {{backend: local, model: {local.model}, base_url: {local.url}}}", flush=True)
    signal.pause()
