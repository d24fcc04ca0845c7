"""Train models on images, text, tables, ratings and masks: the core."""
