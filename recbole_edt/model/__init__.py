"""Models: networks and losses, nothing of files or loops."""
