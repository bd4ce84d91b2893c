"""auditkit within other tools; each module needs the tool that it is named after, and nothing else imports it."""
