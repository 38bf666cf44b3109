"""Evaluation: labelled recordings are judged as by a live worker and measured (docs/evaluation.md)."""
