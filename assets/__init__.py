"""The assets: one module per stage, each a thin function that calls the science and publishes its result.

What belongs here: which builder runs with which part of the study, the blocking checks, the metadata that the UI shows. What does
not: anything that computes.
"""

from assets.publishing import StageAsset

STAGE_ASSETS: tuple[StageAsset, ...] = ()
