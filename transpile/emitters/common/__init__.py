"""What several emitters share: Python text, host functions."""
