"""What several emitters share: Python text, host functions, dispatch, parts of a module's text."""
