"""Comparisons and experiments: many runs, resumed, shared, and laid out as tables and figures."""
