"""Evaluation of every model: scores -> ranks and lists -> RecBole's metrics -> report."""
