"""Figures as functions of data frames: PNG bytes for Dagster metadata, the size comparison and the report."""
