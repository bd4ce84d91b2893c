"""Jinja2 templates and style sheets of the report."""
