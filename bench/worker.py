"""A process that holds one contender and runs as many steps as it is told: `python -m bench.worker SPEC DATA CPUS`.

First of all, before anything that allocates is loaded, the process keeps freed memory (`sae_pipeline/allocator.py`): our own or a
peer's, every contender gets the C library's setting that our pipeline runs with, so that no difference is the allocator's.
"""

import sys

from sae_pipeline.allocator import keep_freed_memory


def main(raw_spec: str, data: str, cpus: str) -> None:
    """Serve until standard input ends."""
    kept = keep_freed_memory()
    from bench.serve import serve

    serve(raw_spec, data, cpus, kept)


if __name__ == "__main__":
    main(*sys.argv[1:4])
