"""Tables and figures of the paper, one file each."""
