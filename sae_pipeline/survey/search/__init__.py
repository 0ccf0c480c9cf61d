"""The stage `concept_search`: features looked for by five methods, over committed concept files (rows 25, 57 to 59 and 61)."""
