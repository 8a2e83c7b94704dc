"""The report of a run: one HTML file that opens anywhere, without a network and without a script."""

from podar.reports.page import render, write
from podar.reports.record import Picture, RunRecord, Scene
from podar.reports.summary import Frozen, Layer, Point, Summary

__all__ = ["Frozen", "Layer", "Picture", "Point", "RunRecord", "Scene", "Summary", "render", "write"]
