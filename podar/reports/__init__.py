"""The report of a run: one HTML file that opens anywhere, without a network and without a script."""

from podar.reports.page import render, write
from podar.reports.record import Frozen, Layer, Picture, Point, RunRecord

__all__ = ["Frozen", "Layer", "Picture", "Point", "RunRecord", "render", "write"]
