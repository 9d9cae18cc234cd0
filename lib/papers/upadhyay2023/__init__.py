"""Upadhyay, Phlypo, Saini and Liwicki 2023 (arXiv 2308.12114): study, run, tables and figures."""
