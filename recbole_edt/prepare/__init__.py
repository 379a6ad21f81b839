"""From public Amazon files to atomic files."""
