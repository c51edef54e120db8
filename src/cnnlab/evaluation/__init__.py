"""Metrics from a run and a split."""
