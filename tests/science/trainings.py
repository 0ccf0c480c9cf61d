"""Small trainings on planted activations, in every architecture, and what they leave behind."""

from pathlib import Path

from sae_pipeline.digests import file_digest
from sae_pipeline.study import Sae
from tests.science.planted import PlantedActivations

SIZE = 96
FILES = ("weights.safetensors", "config.json", "history.parquet")


SPARSITY = {
    "relu_l1": {"l1": 0.4},
    "gated": {"l1": 1.0},
    "topk": {"k": 3},
    "batch_topk": {"k": 3},
    "matryoshka": {"k": 3, "prefixes": [0.25, 0.5, 1]},
    "jumprelu": {"sparsity": 0.3},
    "jumprelu-step": {"sparsity": 1.5, "sparsity_loss": "step"},
    "revived": {"k": 3},
    "ring": {"k": 3},
}
PLAIN = [name for name in SPARSITY if name not in ("revived", "ring")]
OTHERWISE = {
    "revived": {"architecture": "batch_topk", "sizes": [512], "epochs": 50},  # so long that many are dead and AuxK takes part
    "ring": {"architecture": "batch_topk", "ring": 700},  # activations that are computed on the way
}


def section(architecture: str = "batch_topk", **changes) -> Sae:
    fields = {"sizes": [SIZE], "epochs": 20, "batch": 256, "learning_rate": 5e-3, "checkpoint_every_steps": 20}
    fields |= {"architecture": architecture.split("-")[0]} | OTHERWISE.get(architecture, {}) | SPARSITY[architecture]
    return Sae(**(fields | changes))  # pyright: ignore[reportArgumentType]


def source(architecture: str, made: type[PlantedActivations] = PlantedActivations) -> PlantedActivations:
    reader = made()
    reader.is_streamed = architecture == "ring"
    return reader


def digests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in FILES}
