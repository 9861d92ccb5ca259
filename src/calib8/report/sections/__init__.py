"""The sections of reports, a file each: what it says, in which table and chart, and what a report must have for it."""
