"""Published rivals of LLM-EDT, each from its paper."""
