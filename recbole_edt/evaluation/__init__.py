"""Evaluation of every model: scores -> ranks (`ranking`) -> metrics (`metrics`) -> `report`."""
