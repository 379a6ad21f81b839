"""Evaluation: candidates in, ranks and a report out, the same for every model."""

from recbole_edt.evaluation.metrics import metric_names, summarise
from recbole_edt.evaluation.ranking import Ranking
from recbole_edt.evaluation.report import table, write_json

__all__ = ["Ranking", "metric_names", "summarise", "table", "write_json"]
