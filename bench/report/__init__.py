"""The report: what sessions left, as tables, charts and a verdict on one page."""
