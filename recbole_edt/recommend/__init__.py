"""Recommendations of a trained model: for one user with reasons, for all users, as vectors."""
