"""Time and memory of the exact neighbour search on a large SAE, beside a full sort of the same cosines.

    python bench/survey.py [n_features]     default 65,536 features of 576 dimensions; under a minute on 2 cores

Prints seconds, seconds of CPU over all threads, the highest memory of the process, and how many of a sample's neighbours differ
from the full sort.
"""

import platform
import resource
import sys
import time

import numpy as np

from sae_pipeline.survey.neighbours import nearest_features

D_MODEL, N_NEIGHBOURS, N_SAMPLE = 576, 15, 64


def main() -> None:
    n_features = int(sys.argv[1]) if len(sys.argv) > 1 else 65_536
    rows_FD = np.random.default_rng(0).standard_normal((n_features, D_MODEL), dtype=np.float32)
    rows_FD /= np.linalg.norm(rows_FD, axis=1, keepdims=True)
    started, worked, n_wrong, sample = time.perf_counter(), time.process_time(), 0, {}
    for first, neighbour_QK, _ in nearest_features(rows_FD, rows_FD, N_NEIGHBOURS, same=True):
        if len(sample) < N_SAMPLE:
            sample[first] = neighbour_QK[0]
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    for feature, found_K in sample.items():
        cosine_F = rows_FD @ rows_FD[feature]
        cosine_F[feature] = -2
        n_wrong += len(set(np.argsort(-cosine_F)[:N_NEIGHBOURS]) ^ set(found_K))
    print(f"{platform.machine()}, numpy {np.__version__}: {n_features:,} x {D_MODEL}, {N_NEIGHBOURS} nearest of each")
    print(f"{seconds:.1f} s ({worked:.1f} s of CPU), highest memory {memory:.2f} GB")
    print(f"{n_wrong} of {len(sample) * N_NEIGHBOURS} sampled neighbours differ from those of a full sort")


if __name__ == "__main__":
    main()
