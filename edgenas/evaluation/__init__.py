"""Accuracy of an architecture: from the supernet; later from tables and after quantisation."""

from edgenas.evaluation.supernet import SupernetEvaluator, top1

__all__ = ["SupernetEvaluator", "top1"]
