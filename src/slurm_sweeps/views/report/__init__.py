"""The report: one HTML file that shows a whole sweep, and needs nothing beside it."""
