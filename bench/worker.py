"""A process that holds one contender and runs as many steps as it is told: `python -m bench.worker SPEC DATA CPUS`.

First of all, before anything that allocates is loaded, the process keeps freed memory (`sae_pipeline/allocator.py`), as our
pipeline does, unless the contender is one with `allocator=default`: a peer as its user gets it.
"""

import json
import sys

from sae_pipeline.allocator import keep_freed_memory


def main(raw_spec: str, data: str, cpus: str) -> None:
    """Serve until standard input ends."""
    kept = (json.loads(raw_spec)["options"] or {}).get("allocator") != "default" and keep_freed_memory()
    from bench.serve import serve

    serve(raw_spec, data, cpus, kept)


if __name__ == "__main__":
    main(*sys.argv[1:4])
