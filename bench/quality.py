"""Equal budget, equal L0, the same activations: `python -m bench.quality data/demo/activations [--features 1024] [--epochs 1]`.

Every contender trains from the same initial weights on the same batches in the same order, with Adam at the same constant
learning rate, one thread; then the explained variance of held-out tokens is taken with the k rule of training: L0 is equal by
construction. Differences to ours are paired by seed (initial weights and order). Writes bench/quality.json, prints a table.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from bench.rounds import Worker, python_for
from bench.setting import Shape, Spec

FILE = Path(__file__).resolve().parent / "quality.json"
CONTENDERS = {
    "topk": (("ours", "float32"), ("ours", "bfloat16"), ("SAELens", "float32"), ("dictionary_learning", "float32"),
             ("sparsify", "float32")),
    "batch_topk": (("ours", "float32"), ("ours", "bfloat16"), ("SAELens", "float32"), ("dictionary_learning", "float32")),
}  # fmt: skip


def scaled(activations: Path, split: str) -> np.ndarray:
    """Unmasked tokens of a split, scaled."""
    from sae_pipeline.activations.reader import ActivationReader

    reader = ActivationReader.open(activations)
    return reader.scaled(reader.gather(reader.token_index(split))).numpy()


def explained(spec: Spec, order: Path, held_out: Path, n_steps: int, variance: float) -> float:
    """Explained variance of held-out tokens after `n_steps`."""
    with Worker(spec, order, python_for(spec), "") as worker:
        assert worker.ready
        worker.run(n_steps, record=False)
        return 1 - worker.ask(f"mse {held_out}")["mse"] / variance


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(prog="bench.quality", description=__doc__)
    parser.add_argument("activations", type=Path)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--k", type=int, nargs="*", default=[32])
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    train_ND, held_out_ND = scaled(given.activations, "train"), scaled(given.activations, "held_out")
    batch = 2048
    held_out_ND = held_out_ND[: len(held_out_ND) // batch * batch]
    variance = float(np.square(held_out_ND - held_out_ND.mean(0)).sum(1).mean())
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        held_out, order = Path(scratch) / "held_out.npy", Path(scratch) / "train.npy"
        np.save(held_out, held_out_ND)
        for seed in range(1, given.seeds + 1):
            n_steps = int(given.epochs * len(train_ND)) // batch
            chosen_N = np.random.default_rng(seed).permutation(len(train_ND))[: len(train_ND) // batch * batch]
            np.save(order, train_ND[chosen_N])
            for k in given.k:
                shape = Shape("quality", train_ND.shape[1], given.features, k, batch)
                for architecture, contenders in CONTENDERS.items():
                    for contender, dtype in contenders:
                        spec = Spec(
                            contender, shape, dtype, architecture=architecture, learning_rate=given.learning_rate, seed=seed
                        )
                        value = explained(spec, order, held_out, n_steps, variance)
                        rows.append({"architecture": architecture, "k": k, "seed": seed, "contender": spec.label, "ev": value})
                        print(json.dumps(rows[-1]), flush=True)
    settings = vars(given) | {"activations": given.activations.name, "n_steps": n_steps, "batch": batch}
    FILE.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """Mean explained variance, and the paired difference to ours in float32 with its standard error over seeds."""
    lines = ["| architecture | k | contender | explained variance | minus ours (float32), paired |", "|---|---|---|---|---|"]
    for architecture, k, contender in dict.fromkeys((row["architecture"], row["k"], row["contender"]) for row in rows):
        here = [row for row in rows if (row["architecture"], row["k"]) == (architecture, k)]
        ours = {row["seed"]: row["ev"] for row in here if row["contender"] == "ours float32"}
        own = {row["seed"]: row["ev"] for row in here if row["contender"] == contender}
        differences = [own[seed] - ours[seed] for seed in own]
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
        mean = statistics.mean(own.values())
        lines.append(f"| {architecture} | {k} | {contender} | {mean:.4f} | {statistics.mean(differences):+.4f} ± {error:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
