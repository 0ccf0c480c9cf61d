"""Both judged stages in a process that can be killed: `python -m tests.judge.stage_client <url> <world> <study> <work>`."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

from sae_pipeline.interpret.embedding import SentenceEmbedder
from tests.judge.test_judged import KEY, build, section
from tests.science.interpret_world import Folders

if __name__ == "__main__":
    url, world, study, work = sys.argv[1], *map(Path, sys.argv[2:])
    os.environ["ANTHROPIC_API_KEY"] = KEY
    folders = Folders(world / "corpus", world / "activations", world / "feature_stats")
    build(folders, SentenceEmbedder(), study, work, section(SimpleNamespace(url=url), max_concurrency=3))
