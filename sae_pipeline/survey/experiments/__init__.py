"""Small SAEs that the survey trains for its own experiments, and how they are measured beside their controls."""
