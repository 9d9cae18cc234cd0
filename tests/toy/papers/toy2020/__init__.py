"""A paper of four files, to show what is needed; see CONTRIBUTING, "Add a paper"."""
