"""Atomic files, tables, atomic writes and the lock of a run."""
