"""Which specs make a table or figure, the published numbers, and the claims: one module for each study."""
