"""Training: one loop, the losses and metrics, and what each study does in one run."""
