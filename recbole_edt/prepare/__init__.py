"""From raw purchases to atomic files: the simulated shop, and the public data sets."""
