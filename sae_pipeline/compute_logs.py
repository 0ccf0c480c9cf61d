"""What a step prints goes to its log file in the Dagster home, and nowhere else.

Dagster's own manager also copies it to the terminal, through two helper processes per stream and step. They cost more than many
of our steps, write into the progress bars, and print tracebacks of their own on Ctrl-C.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager


class QuietComputeLogManager(LocalComputeLogManager):
    """`LocalComputeLogManager` without the copy on the terminal. Named in dagster.yaml."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "QuietComputeLogManager":
        """Dagster's constructor from dagster.yaml."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        """Send standard output and error to the step's two files for the duration of the block."""
        out, err = (self.get_captured_local_path(log_key, extension) for extension in ("out", "err"))
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        with redirect_to_file(sys.stdout, out), redirect_to_file(sys.stderr, err):
            yield CapturedLogContext(log_key)
        # How the UI knows that nothing more will come.
        Path(self.complete_artifact_path(log_key)).touch()
