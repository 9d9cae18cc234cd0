"""Shin, Yin and Lee 2023 (arXiv 2312.05828): study, run, tables and figures."""
