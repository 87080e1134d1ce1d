"""Experiments: arms, blocks, trials, statistics, verdicts."""
