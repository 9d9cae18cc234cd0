"""Records in, tables, figures and verdicts out: everything that a page shows is computed here."""
