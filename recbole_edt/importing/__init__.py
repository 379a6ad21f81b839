"""From files or DataFrames of one's own to atomic files."""
