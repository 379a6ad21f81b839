"""Datasets and loaders; :mod:`~recbole_edt.data.sequences` holds the protocol, in numpy alone."""
