"""From images to batches: sources, splits, the decoded store, augmentation, loaders, and the audit."""
