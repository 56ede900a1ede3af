"""Runs compared: one HTML file with figures and tables, and the table alone for others to print."""

from hvd_imagenet.report.arms import Row, table
from hvd_imagenet.report.page import write

__all__ = ["Row", "table", "write"]
