"""SAEs in the formats that others use: readers, writers, and the checks between a file and a study.

Every reader turns its format into one `RawSae` (raw activations in and out), every writer starts from one.
"""
