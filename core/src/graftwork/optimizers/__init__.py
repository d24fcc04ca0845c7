"""Optimizers that torch does not have; `graftwork.optim.make_optimizer` knows them by name."""
