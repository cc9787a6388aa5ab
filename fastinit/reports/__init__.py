"""Reports: a propagation as a self-contained HTML page, or as a picture.

charts      the data of charts, and charts as SVG
pages       one HTML page
pictures    one picture, by matplotlib
"""

from fastinit.reports.pages import page, write_page
from fastinit.reports.pictures import draw

__all__ = ["draw", "page", "write_page"]
