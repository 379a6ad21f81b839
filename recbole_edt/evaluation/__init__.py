"""Evaluation of every model: scores -> ranks (`ranking`) -> metrics (`metrics`) -> `report`."""

from recbole_edt.evaluation.metrics import METRICS, metric_names, register_metric, summarise
from recbole_edt.evaluation.ranking import Ranking
from recbole_edt.evaluation.report import table, write_json

__all__ = [
    "METRICS",
    "Ranking",
    "metric_names",
    "register_metric",
    "summarise",
    "table",
    "write_json",
]
