"""The worked numbers of docs/scale.md are those of its formulas."""

from pathlib import Path

import pytest

from bench.scale import DEMO, GPU_BYTES, PAPER, STATE_BYTES, largest

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
GPU_OPERATIONS, CORE_OPERATIONS, GPU_MEMORY = 790e12, 390e9, 141e9
TRAINED_TOKENS = 1_214_464  # of demo, three epochs


def hours(operations: float, share: float) -> float:
    return operations / (share * GPU_OPERATIONS) / 3600


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("Parameters `2 D F` = 2.8e11", PAPER.n_parameters, 1),
        ("16 + 6 bytes a parameter = 6.1 TB", GPU_BYTES * PAPER.n_parameters, 1e12),
        ("10 bytes, 2.8 TB", 10 * PAPER.n_parameters, 1e12),
        ("44 GPUs of 141 GB", -(-GPU_BYTES * PAPER.n_parameters // GPU_MEMORY), 1),
        ("512 tokens at least: 35 GB", PAPER.gpu_tile_bytes, 1e9),
        ("`2 D F T` = 2.2e21", PAPER.encoder_operations, 1),
        ("1,300 GPU hours; a dense", hours(PAPER.encoder_operations, 0.6), 1),
        ("`12 T k` = 18 TB", PAPER.run_bytes, 1e12),
        ("1.1 TB of memory", PAPER.correlation_bytes, 1e12),
        ("= 5.6e20 operations", PAPER.harvest_operations, 1),
        ("440 GPU hours", hours(PAPER.harvest_operations, 0.45), 1),
        ("Shards: 66 TB", PAPER.shard_bytes, 1e12),
        ("streaming: 0.12 TB", PAPER.stream_bytes, 1e12),
        ("training tokens: 128 GB", PAPER.order_bytes, 1e9),
        ("12,288 bytes) = 10 GB", PAPER.step_bytes, 1e9),
        ("A checkpoint: 3.3 TB", PAPER.checkpoint_bytes, 1e12),
        ("in 4.6 minutes", PAPER.checkpoint_bytes / (2e9 * 48 / 8) / 60, 1),
        ("about\n1.4 M features", largest(GPU_MEMORY, 2304), 1e6),
        ("5.5e13 operations", DEMO.harvest_operations, 1),
        ("0.69 GB by the formula", DEMO.shard_bytes, 1e9),
        ("302 + 75 MB", STATE_BYTES * DEMO.n_parameters, 1e6),
        ("checkpoint | `12 x 2 D F + 8 F` bytes | 16,384 features: 227 MB", DEMO.checkpoint_bytes, 1e6),
        ("75.6 MB by the formula", DEMO.published_bytes, 1e6),
        ("16,384 features: 92 MB", DEMO.correlation_bytes, 1e6),
        ("and 58.8 s", 2 * DEMO.n_parameters * TRAINED_TOKENS / (2 * CORE_OPERATIONS), 1),
        ("3.7, 14.7", 2 * DEMO.n_parameters * TRAINED_TOKENS / (2 * CORE_OPERATIONS) / 16, 1),
    ],
)
def test_worked_number(text, value, unit):
    assert text in PAGE
    # The number of the text that the value must round to, with the text's own precision.
    words = text.replace("\n", " ").replace(",", "").replace("(", " ").split()
    numbers = [float(word) for word in words if word.replace(".", "").replace("e", "").isdigit()]
    assert any(abs(value / unit / number - 1) < 0.03 for number in numbers if number), (value / unit, numbers)
