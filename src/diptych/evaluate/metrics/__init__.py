"""Metrics, their intervals, and what is computed from scores: calibration, robustness."""
