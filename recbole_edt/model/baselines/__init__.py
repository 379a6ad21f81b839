"""Published baselines of LLM-EDT, each from its paper."""
