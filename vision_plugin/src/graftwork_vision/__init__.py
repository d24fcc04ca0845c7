"""Images for graftwork."""
