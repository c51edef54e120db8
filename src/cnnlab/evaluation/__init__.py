"""Figures from a run and a split."""
