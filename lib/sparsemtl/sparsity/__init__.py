"""What the papers are about: scores, masks, proximal steps, measures of sparsity, removal of dead channels."""
