"""One file per chapter of the report: each turns the runs into figures, tables and a line for what is missing."""
