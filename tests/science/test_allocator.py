"""Freed arrays are used again without new pages: counted by the kernel, in a process of its own."""

import subprocess
import sys

SCRIPT = """
import resource, sys
import torch
from sae_pipeline.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    return [torch.ones(1_000_000) for _ in range(10)] + [torch.ones(12_000_000)]  # the last: more than 32 MB
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_that_was_freed_needs_no_new_pages():
    assert page_faults("keep") < page_faults("default") / 3
