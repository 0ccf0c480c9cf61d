"""The feature browser: pages over the read-only analysis database, and a playground on the model itself."""
