"""One self-contained HTML page of saved results: `report_page`."""

from sharpcli.render.report.page import report_page
from sharpcli.render.report.sections import Section, section_of

__all__ = ["Section", "report_page", "section_of"]
