"""Render a stored result for people and machines: pure functions, no model, no network, no clock."""

from __future__ import annotations

from auditkit.report.html import Page, render_html, write_html
from auditkit.report.junit import junit_xml
from auditkit.report.markdown import markdown_summary
from auditkit.report.samples_csv import samples_csv
from auditkit.report.text import verdict_sentence

__all__ = ["Page", "junit_xml", "markdown_summary", "render_html", "samples_csv", "verdict_sentence", "write_html"]
