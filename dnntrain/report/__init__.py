"""Report runs as curves.png and a self-contained report.html, from the files of run directories."""

from __future__ import annotations

from dnntrain.report.curves import write_curves
from dnntrain.report.page import check_page_path, write_report

__all__ = ["check_page_path", "write_curves", "write_report"]
