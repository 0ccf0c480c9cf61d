"""Scaling Monosemanticity on any open language model. Nothing here imports torch: that happens where it is needed."""

import os

# Read by the OpenMP runtime when torch loads. By default its threads spin at every barrier: on cores that something else also
# uses, a training step then takes ten times as long (measured: 260-1150 ms instead of 25-30). Sleeping costs microseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
