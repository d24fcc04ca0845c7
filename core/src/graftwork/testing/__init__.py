"""What tests of plugins and of the core share."""
