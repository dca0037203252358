"""report.html: a run on one page, which needs nothing beside itself."""
