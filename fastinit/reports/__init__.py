"""How it is shown: a propagation as a page that needs nothing else, or as a picture.

charts      what is drawn, and the charts of a page as SVG
pages       one HTML page
pictures    one picture, by matplotlib
"""

from fastinit.reports.pages import page, write_page
from fastinit.reports.pictures import draw

__all__ = ["draw", "page", "write_page"]
