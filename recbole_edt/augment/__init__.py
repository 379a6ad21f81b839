"""From atomic files to augmented atomic files: encode, generate, filter, insert, profile."""
