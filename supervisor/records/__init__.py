"""What is remembered: the journal, incidents, and the handover that a later supervisor adopts from."""
