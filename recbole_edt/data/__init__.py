"""From atomic files to leak-free batches and candidates.

``sequences``, ``candidates`` and ``embeddings`` need numpy only.
"""
